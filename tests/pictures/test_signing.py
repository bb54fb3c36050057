"""Files with signed manifests, read by the library's own reader."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image

from app.errors import SigningFailed
from app.pictures import certificates
from app.pictures.encode import OutputFormat, encode
from app.pictures.provenance import SOURCE_TYPE, Origin, read_origin
from app.pictures.signing import Signer
from tests.support.manifests import read_manifest, trial_certificates
from tests.support.pictures import quarters
from tests.support.requests import MODEL, SHORT_REQUEST

ORIGIN = Origin.of(MODEL, SHORT_REQUEST, 0, (np.arange(24, dtype=np.float32),))


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path, Path]:
    return trial_certificates(tmp_path)


@pytest.fixture
def signer(paths: tuple[Path, Path, Path]) -> Signer:
    certificate, key, _ = paths
    return Signer(certificate, key)


@pytest.mark.parametrize("kind", OutputFormat)
def test_a_signed_file_says_that_a_model_created_it(
    signer: Signer, paths: tuple[Path, Path, Path], kind: OutputFormat
) -> None:
    file = encode(quarters(), kind, ORIGIN, signer)
    assert read_manifest(file, kind) == ("Valid", "c2pa.created", SOURCE_TYPE)
    assert read_manifest(file, kind, paths[2]) == ("Trusted", "c2pa.created", SOURCE_TYPE)


@pytest.mark.parametrize("kind", OutputFormat)
def test_a_signature_changes_neither_pixels_nor_xmp(
    signer: Signer, tmp_path: Path, kind: OutputFormat
) -> None:
    signed, plain = tmp_path / "signed", tmp_path / "plain"
    signed.write_bytes(encode(quarters(), kind, ORIGIN, signer))
    plain.write_bytes(encode(quarters(), kind, ORIGIN))
    with Image.open(signed) as one, Image.open(plain) as other:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        assert one.info["xmp"] == other.info["xmp"]
    assert read_origin(signed).parameters == SHORT_REQUEST


@pytest.mark.parametrize("what", [b"trainedAlgorithmicMedia", b'"seed":7', b"IDAT"])
def test_what_is_changed_in_a_signed_file_is_noticed(signer: Signer, what: bytes) -> None:
    file = bytearray(encode(quarters(), OutputFormat.PNG, ORIGIN, signer))
    place = file.rindex(what) + len(what)
    file[place] ^= 1
    verdict, _, _ = read_manifest(bytes(file), OutputFormat.PNG)
    assert verdict == "Invalid"


def test_several_threads_may_sign_at_once(signer: Signer) -> None:
    with ThreadPoolExecutor(4) as threads:
        files = threads.map(lambda _: encode(quarters(), OutputFormat.PNG, None, signer), range(12))
    assert {read_manifest(file, OutputFormat.PNG)[0] for file in files} == {"Valid"}


def _secret(key: Any, **options: Any) -> bytes:
    pem: bytes = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, options.get("encryption", NoEncryption())
    )
    return pem


def _encrypted() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return _secret(key, encryption=BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: b"no key", r"key\.pem is not a private key in PEM"),
        (_encrypted, "without a passphrase"),
        (lambda: _secret(ed448.Ed448PrivateKey.generate()), "P-256, P-384, P-521, Ed25519 or RSA"),
        (lambda: _secret(ec.generate_private_key(ec.SECP256K1())), "that C2PA does not know"),
        (lambda: _secret(ec.generate_private_key(ec.SECP256R1())), "does not match"),
        (lambda: _secret(rsa.generate_private_key(65537, 2048)), "C2PA cannot sign with"),
    ],
)
def test_a_key_that_will_not_do_is_refused(
    paths: tuple[Path, Path, Path], make: Callable[[], bytes], says: str
) -> None:
    certificate, key, _ = paths
    key.write_bytes(make())
    with pytest.raises(ValueError, match=says):
        Signer(certificate, key)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pem cannot be read: No such file"):
        Signer(tmp_path / "none.pem", tmp_path / "key.pem")


def test_an_authority_is_no_signer(paths: tuple[Path, Path, Path]) -> None:
    _, key, authority = paths
    with pytest.raises(ValueError, match="not self-signed"):
        Signer(authority, key)


def test_a_certificate_for_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExtendedKeyUsageOID, "EMAIL_PROTECTION", ExtendedKeyUsageOID.SERVER_AUTH)
    certificate, key, _ = trial_certificates(tmp_path)
    with pytest.raises(ValueError, match="email protection or document signing"):
        Signer(certificate, key)


def test_an_expired_certificate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Past(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(days=certificates.VALID_DAYS + 1)

    monkeypatch.setattr(certificates, "datetime", Past)
    certificate, key, _ = trial_certificates(tmp_path)
    with pytest.raises(ValueError, match="not valid at time of signing"):
        Signer(certificate, key)


def test_where_the_extra_is_missing_that_is_said(
    paths: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.pictures.signing.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the extra c2pa"):
        Signer(*paths[:2])


def test_what_can_no_longer_be_signed_is_an_error(signer: Signer) -> None:
    with pytest.raises(SigningFailed, match="was made, but its file cannot be signed"):
        signer.sign(b"no picture", "image/png")
