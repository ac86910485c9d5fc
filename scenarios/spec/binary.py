"""Bytes as a TOML file spells them."""

from __future__ import annotations

import base64
import binascii

from scenarios.errors import CouldNotRun
from scenarios.spec.placeholders import used

_BASE64 = "base64:"


def as_bytes(text: str) -> bytes:
    """`base64:…`, or text that stands for its UTF-8. Raises `CouldNotRun`."""
    if not text.startswith(_BASE64):
        return text.encode()
    try:
        return base64.b64decode(text.removeprefix(_BASE64), validate=True)
    except binascii.Error as error:
        raise CouldNotRun(f"{text[:60]!r} is not base64: {error}") from None


def misspelled(text: str) -> str | None:
    """What is wrong with it, as far as can be told before its placeholders are filled; None if nothing is."""
    if any(used(text)):
        return None
    try:
        as_bytes(text)
    except CouldNotRun as error:
        return str(error)
    return None
