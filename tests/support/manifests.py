"""C2PA manifests, as the library's own reader finds them, and certificates for signing them."""

import io
from pathlib import Path
from typing import Any

import c2pa

from app.pictures.certificates import make_certificates
from app.pictures.encode import OutputFormat


def trial_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Files with a certificate, its key, and its authority."""
    paths = folder / "certificate.pem", folder / "key.pem", folder / "authority.pem"
    for path, pem in zip(paths, make_certificates("trial"), strict=True):
        path.write_bytes(pem)
    return paths


def read_manifest(
    file: bytes, kind: OutputFormat, authority: Path | None = None
) -> tuple[str | None, str, str]:
    """The reader's verdict, and the only action with its digital source type.

    With an ``authority`` the reader trusts whom that vouches for.
    """
    trust: dict[str, Any] = {"trust": {"trust_anchors": authority.read_text()}} if authority else {}
    context = c2pa.Context.from_dict(trust)
    with c2pa.Reader(kind.media_type, io.BytesIO(file), context=context) as reader:
        manifest = reader.get_active_manifest()
        [actions] = [each["data"]["actions"] for each in manifest["assertions"]]
        [action] = actions
        verdict: str | None = reader.get_validation_state()
    return verdict, action["action"], action["digitalSourceType"]
