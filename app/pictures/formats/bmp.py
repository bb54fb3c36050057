"""BMP: one header of known length, then the pixels."""

import struct
from typing import Final

from app.errors import FormatNotAllowed
from app.pictures.formats.contents import FIELD, Contents

SIGNATURE: Final = b"BM"

_OLD_HEADER_BYTES = 12
_RUN_LENGTHS = (1, 2)


def read(data: bytes) -> Contents:
    """Nothing needs to be left out.

    Run lengths are refused: hardly anybody writes them, and Pillow decodes them byte by byte in
    Python, seconds for a picture of a few megapixels.
    """
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == _OLD_HEADER_BYTES:
        width, height = struct.unpack_from("<HH", data, 18)
        return Contents((width, height), data)
    width, height, compression = struct.unpack_from("<Ii4xI", data, 18)
    if compression in _RUN_LENGTHS:
        raise FormatNotAllowed(
            "BMP files with run-length compression are not accepted; save it uncompressed, "
            "or as PNG",
            field=FIELD,
        )
    return Contents((width, abs(height)), data)
