"""What a file says of how its picture was made, and what can be read back from it.

That a model made it is said in the words of the IPTC Photo Metadata Standard 2025.1; the parameters
are JSON in a namespace of our own, with all that it takes to make the picture again. Everything is
in XMP (ISO 16684-1), which all three formats hold, and what people read in PNG's text as well.
Nothing in it changes from one writing to the next, so equal pictures are equal files.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ValidationError

from app import __version__
from app.errors import NotRepeatable
from app.parameters import Condition, Embedding, ModelInfo, Parameters

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media that a trained model has made."""

SOFTWARE = f"variations {__version__}"

XMP_KEYWORD = "XML:com.adobe.xmp"
"""Of the chunk in which a PNG holds XMP."""

_VERSION = 1
_OURS = "urn:x-variations:provenance#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"


class Provenance(StrEnum):
    """How much a file tells of its picture's making."""

    FULL = "full"
    MINIMAL = "minimal"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Origin:
    """How one picture was made: all that it takes to make it again.

    ``parameters`` are those with which the picture is made alone. ``embeddings`` are of the
    pictures that it was made from, as its condition first names them; none where they are left out.
    ``bucket`` is the one fixed bucket's number of rows, if there was one. ``model``, ``revision``,
    ``device`` and ``dtype`` are as in :class:`app.parameters.ModelInfo`.
    """

    model: str
    revision: str | None
    device: str
    dtype: str
    bucket: int | None
    parameters: Parameters
    embeddings: tuple[Embedding, ...] = ()

    @classmethod
    def of(
        cls,
        model: ModelInfo,
        parameters: Parameters,
        index: int,
        embeddings: Sequence[Embedding] = (),
        bucket: int | None = None,
    ) -> Self:
        """The origin of variation ``index`` of a request."""
        alone = replace(parameters, n=1, seed=parameters.seed_of(index))
        told = model.id, model.revision, model.device, model.dtype
        return cls(*told, bucket, alone, tuple(embeddings))

    def told(self, provenance: Provenance) -> Self | None:
        """What of it is written into a file."""
        match provenance:
            case Provenance.FULL:
                return self
            case Provenance.MINIMAL:
                return replace(self, embeddings=())
            case Provenance.OFF:
                return None

    def condition(self) -> Condition:
        """What the picture was made from.

        Raises :class:`NotRepeatable` where that is left out, or is more than a file can hold.
        """
        if self.parameters.strength is not None:
            raise NotRepeatable(
                "it was made with a strength, and so from the uploaded picture itself, which is "
                "not in the file: post that picture again"
            )
        number = len(self.parameters.weight)
        if len(self.embeddings) < number:
            raise NotRepeatable(
                "what the picture was made from is not in the file: it was written with "
                "VARIATIONS_PROVENANCE=minimal, and takes full to be repeated"
            )
        pictures, negative = self.embeddings[:number], self.embeddings[number:]
        return Condition.of(self.parameters, pictures, next(iter(negative), None))

    def to_json(self) -> str:
        """All but the embeddings, as it is written into files: ASCII, on one line."""
        return _Told(
            version=_VERSION,
            software=SOFTWARE,
            model=_printable(self.model),
            revision=self.revision,
            device=self.device,
            dtype=self.dtype,
            bucket=self.bucket,
            parameters=self.parameters,
        ).model_dump_json(ensure_ascii=True)

    def to_xmp(self) -> bytes:
        """An XMP packet."""
        properties = {
            "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE,
            "Iptc4xmpExt:AISystemUsed": _printable(self.model),
            "Iptc4xmpExt:AISystemVersionUsed": self.revision,
            "xmp:CreatorTool": SOFTWARE,
            "variations:Parameters": self.to_json(),
            "variations:Embeddings": " ".join(map(_to_text, self.embeddings)),
        }
        said = "".join(f"\n  {name}={quoteattr(text)}" for name, text in properties.items() if text)
        return _PACKET.format(said).encode()


class _Told(BaseModel):
    """What is written of an origin, embeddings apart."""

    version: int
    software: str
    model: str
    revision: str | None
    device: str
    dtype: str
    bucket: int | None
    parameters: Parameters


_PACKET = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about=""
  xmlns:Iptc4xmpExt="{_IPTC}"
  xmlns:xmp="http://ns.adobe.com/xap/1.0/"
  xmlns:variations="{_OURS}"{{}}/>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def read_origin(path: Path) -> Origin:
    """What a file that was written here says of its picture's making.

    Raises :class:`NotRepeatable` where it says nothing of it, or what cannot be understood.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            found = _properties(image.getxmp(strip_namespaces=False))
    except (UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise NotRepeatable(
            f"{path.name} is no PNG, JPEG or WebP file, or a damaged one: give a file that the "
            "service or `generate` has written"
        ) from error
    if "Parameters" not in found:
        raise NotRepeatable(
            f"{path.name} does not say how its picture was made: it was written elsewhere, with "
            "VARIATIONS_PROVENANCE=off, or by a program that drops XMP when it saves"
        )
    try:
        return _origin(found)
    except ValueError as error:  # those of pydantic and base64 too
        raise NotRepeatable(
            f"{path.name} says how its picture was made, but not in a way that {SOFTWARE} "
            f"understands: {_reason(error)}"
        ) from error


def _properties(xmp: Any) -> dict[str, str]:
    """The properties in our namespace, wherever another program has moved them."""
    found: dict[str, str] = {}
    for name, value in xmp.items() if isinstance(xmp, dict) else enumerate(xmp):
        if isinstance(value, dict | list):
            found |= _properties(value)
        elif isinstance(name, str) and isinstance(value, str) and name.startswith(f"{{{_OURS}}}"):
            found[name.partition("}")[2]] = value
    return found


def _origin(found: dict[str, str]) -> Origin:
    told = _Told.model_validate_json(found["Parameters"])
    if told.version != _VERSION:
        raise ValueError(f"its version is {told.version}, not {_VERSION}")
    given = json.loads(found["Parameters"])["parameters"]
    if unknown := given.keys() - {field.name for field in fields(Parameters)}:
        raise ValueError(f"nothing is known of {', '.join(sorted(unknown))}")
    return Origin(
        model=told.model,
        revision=told.revision,
        device=told.device,
        dtype=told.dtype,
        bucket=told.bucket,
        parameters=told.parameters,
        embeddings=tuple(map(_from_text, found.get("Embeddings", "").split())),
    )


def _printable(text: str) -> str:
    """The text without what XML cannot hold: a folder may be called anything."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _to_text(embedding: Embedding) -> str:
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode("ascii")


def _from_text(text: str) -> Embedding:
    embedding = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    if not np.isfinite(embedding).all():
        raise ValueError("an embedding is not finite")
    return embedding


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    [first, *_] = error.errors()
    return ": ".join((*map(str, first["loc"]), first["msg"]))
