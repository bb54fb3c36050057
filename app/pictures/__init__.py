"""Files to pixels and back; knows no HTTP and no torch.

``decode`` makes upright sRGB pixels of an upload, ``formats`` first cuts its first picture out of
it, ``encode`` makes files of pixels.
"""

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""RGB pixels, ``uint8`` of shape ``[height, width, 3]``."""
