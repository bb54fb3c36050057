"""Files to pixels and back; knows no HTTP and no torch.

::

    sandbox      an upload becomes the encoder's input, in a process of its own under limits
    processes    the API process's side of those processes
    forkserver   the other side: it forks them, and what they do
    decode       an upload becomes upright sRGB pixels
    formats      before that, its first picture is cut out of it
    fit          pixels become the encoder's input
    encode       pixels become files
    provenance   what these say of how they were made
    signing      and the signature over it, C2PA's
    certificates for trying that
"""

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""RGB pixels, ``uint8`` of shape ``[height, width, 3]``."""
