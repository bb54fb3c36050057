"""A client of the service, for programs: :class:`Client`, and :class:`AsyncClient` with await.

>>> with Client("http://127.0.0.1:8000") as client:
...     for picture in client.vary("photo.jpg", n=4, seed=7):
...         print(picture.seed, picture.flagged, len(picture.data or b""))

docs/client.md has all of it. Neither torch nor the service's own code is imported.
"""

from app.client.answers import (
    Preview,
    Progress,
    Queued,
    Restarted,
    Step,
    Variation,
    Variations,
    Waiting,
)
from app.client.clients import AsyncClient, Client
from app.client.errors import (
    Busy,
    ClientError,
    InvalidRequest,
    NotAuthorized,
    ServiceError,
    Unreachable,
)
from app.client.requests import Fields, Picture

__all__ = [
    "AsyncClient",
    "Busy",
    "Client",
    "ClientError",
    "Fields",
    "InvalidRequest",
    "NotAuthorized",
    "Picture",
    "Preview",
    "Progress",
    "Queued",
    "Restarted",
    "ServiceError",
    "Step",
    "Unreachable",
    "Variation",
    "Variations",
    "Waiting",
]
