"""C2PA: a signed manifest in a file, which says that a model made its picture (C2PA 2.4).

What it is signed for is the whole file, XMP included. Needs the extra ``c2pa``.
"""

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from app import __version__
from app.errors import SigningFailed
from app.pictures.provenance import SOURCE_TYPE

if TYPE_CHECKING:
    import c2pa

UNTRUSTED = "signingCredential.untrusted"
"""Nobody vouches for the certificate, as far as this machine knows: others may know more."""

_AGENT = {"name": "variations", "version": __version__}

_MANIFEST: dict[str, Any] = {
    "claim_generator_info": [_AGENT],
    "assertions": [
        {
            "label": "c2pa.actions.v2",
            "data": {
                "actions": [
                    {
                        "action": "c2pa.created",
                        "digitalSourceType": SOURCE_TYPE,
                        "softwareAgent": _AGENT,
                    }
                ]
            },
        }
    ],
}

_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

_SETTINGS: dict[str, Any] = {"builder": {"thumbnail": {"enabled": False}}}
"""A small copy of the picture within its file would help nobody."""


class Signer:
    """Signs files with one key. May be used by several threads at once."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read both, and sign a small picture to see that they will do.

        ``certificate`` is a PEM file: the signer's own first, then those that lead to an authority.
        ``key`` is the PEM file of its private key. Raises :class:`ValueError` where the extra is
        missing, one of them cannot be read, or C2PA does not allow the certificate.
        """
        if find_spec("c2pa") is None:
            raise ValueError("signing needs the extra c2pa; the README says how to install it")
        import c2pa  # noqa: PLC0415

        chain, secret = _read(certificate), _read(key)
        info = c2pa.C2paSignerInfo(_algorithm(secret, key), chain, secret, None)
        try:
            settings = c2pa.Settings.from_dict(_SETTINGS)
            self._context = c2pa.Context(settings=settings, signer=c2pa.Signer.from_info(info))
            failures = self._failures()
        except c2pa.C2paError as error:
            failures = [str(error)]
        if failures:
            raise ValueError(
                f"C2PA cannot sign with {certificate} and {key}: {failures[0]}. It wants a "
                "certificate in date and not self-signed, for digital signatures by its key usage, "
                "and for email protection or document signing by its extended key usage"
            )

    def sign(self, file: bytes, media_type: str) -> bytes:
        """The file with a manifest in it, which differs from one signing to the next.

        Takes a few milliseconds. Raises :class:`SigningFailed` where it cannot be signed, as once
        the certificate has expired.
        """
        import c2pa  # noqa: PLC0415

        try:
            return self._signed(file, media_type)
        except c2pa.C2paError as error:
            raise SigningFailed(
                f"The picture was made, but its file cannot be signed: {error}"
            ) from error

    def _signed(self, file: bytes, media_type: str) -> bytes:
        import c2pa  # noqa: PLC0415

        signed = io.BytesIO()
        with c2pa.Builder(_MANIFEST, self._context) as builder:
            builder.sign(media_type, io.BytesIO(file), signed)
        return signed.getvalue()

    def _failures(self) -> list[str]:
        """What a reader says against a picture that is signed with it."""
        import c2pa  # noqa: PLC0415

        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG")
        signed = io.BytesIO(self._signed(file.getvalue(), "image/png"))
        with c2pa.Reader("image/png", signed) as reader:
            results: dict[str, Any] = reader.get_validation_results() or {}
        said = results.get("activeManifest", {}).get("failure", [])
        return [one["explanation"] for one in said if one["code"] != UNTRUSTED]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _algorithm(secret: bytes, path: Path) -> "c2pa.C2paSigningAlg":
    """The signature algorithm that goes with a private key (C2PA 2.4, 13.2)."""
    import c2pa  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        key = load_pem_private_key(secret, password=None)
    except (ValueError, TypeError) as error:  # of an encrypted one
        raise ValueError(
            f"{path} is not a private key in PEM, without a passphrase: {error}"
        ) from None
    match key:
        case ed25519.Ed25519PrivateKey():
            return c2pa.C2paSigningAlg.ED25519
        case rsa.RSAPrivateKey():
            return c2pa.C2paSigningAlg.PS256
        case ec.EllipticCurvePrivateKey(curve=curve) if curve.name in _CURVES:
            return c2pa.C2paSigningAlg[_CURVES[curve.name]]
    raise ValueError(
        f"{path} holds a key that C2PA does not know: it can be P-256, P-384, P-521, Ed25519 or RSA"
    )
