"""BMP: one header of known length, then the pixels."""

import struct
from typing import Final

from app.errors import FormatNotAllowed
from app.pictures.formats.contents import FIELD, Contents

SIGNATURE: Final = b"BM"

_OLD_HEADER_BYTES = 12
_BITS = (1, 4, 8, 24, 32)
_COMPRESSIONS: Final = {
    1: "run-length compression",
    2: "run-length compression",
    3: "bit fields",
    4: "a JPEG inside",
    5: "a PNG inside",
    6: "bit fields",
}


def read(data: bytes) -> Contents:
    """Nothing needs to be left out.

    Run lengths are refused: hardly anybody writes them, and Pillow decodes them byte by byte in
    Python, seconds for a picture of a few megapixels. Of bit fields it knows but a few.
    """
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == _OLD_HEADER_BYTES:
        width, height, bits = struct.unpack_from("<HH2xH", data, 18)
        compression = 0
    else:
        width, height, bits, compression = struct.unpack_from("<Ii2xHI", data, 18)
    if compression:
        _refuse(f"with {_COMPRESSIONS.get(compression, f'compression {compression}')}")
    if bits not in _BITS:
        _refuse(f"of {bits} bits a pixel")
    return Contents((width, abs(height)), data)


def _refuse(kind: str) -> None:
    raise FormatNotAllowed(
        f"BMP files {kind} are not accepted; save it with 24 bits and uncompressed, or as PNG",
        field=FIELD,
    )
