"""Idempotency keys, and what tells one form from another."""

import hashlib
import json
import re

from starlette.datastructures import FormData, Headers, UploadFile

from app.errors import InvalidParameter

KEY_HEADER = "idempotency-key"

_KEY = re.compile(r'"?([\x21\x23-\x7e]{1,255})"?')
_PIECE_BYTES = 2**20


def key_of(headers: Headers) -> str | None:
    """The idempotency key that a request brings, with or without quotes, if it brings one."""
    given = headers.get(KEY_HEADER)
    if given is None:
        return None
    if not (found := _KEY.fullmatch(given.strip())):
        raise InvalidParameter(
            "Idempotency-Key is a word of 1 to 255 characters of ASCII, such as a UUID, not "
            f"{given[:40]!r}",
            field="Idempotency-Key",
        )
    return found[1]


def fingerprint(path: str, form: FormData, *others: str) -> str:
    """A hash of the fields and of the files' bytes, whatever the form's boundary and order are.

    Takes a while; call it in a thread, while nobody else reads the files.
    """
    fields = sorted(
        ((name, _digest(value) if isinstance(value, UploadFile) else value)
         for name, value in form.multi_items()),
        key=lambda pair: pair[0],  # of one name the order may matter
    )  # fmt: skip
    return hashlib.sha256(json.dumps([path, others, fields]).encode()).hexdigest()


def _digest(upload: UploadFile) -> list[str]:
    digest = hashlib.sha256()
    upload.file.seek(0)
    while piece := upload.file.read(_PIECE_BYTES):
        digest.update(piece)
    upload.file.seek(0)
    return [digest.hexdigest()]
