"""Pictures as typed parts of a conversation: what a block showed, for the eyes of a model."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

PictureType = Literal["image/png", "image/jpeg"]
"""What every model server that takes pictures takes."""

LONGEST_SIDE = 8000
"""Pixels; servers refuse more, and with it the whole request."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8"
_NO_FRAME = {0xC4, 0xC8, 0xCC}


def _decode(value: Any) -> Any:
    """Return text, which is always base64, as the bytes it stands for."""
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


Base64 = Annotated[bytes, BeforeValidator(_decode), PlainSerializer(_encode, return_type=str, when_used="json")]
"""Bytes that are base64 in JSON."""


class Picture(BaseModel):
    """A picture.

    Attributes:
        name: Its path in the workspace, or what to call it where it was not saved.
        media_type: `image/png` or `image/jpeg`.
        data: The file's content; base64 in JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    media_type: PictureType
    data: Base64

    def __repr__(self) -> str:
        return f"Picture({self.name!r}, {self.media_type!r}, {len(self.data):,} bytes)"

    @property
    def url(self) -> str:
        """The picture as a `data:` URL (RFC 2397)."""
        return f"data:{self.media_type};base64,{_encode(self.data)}"


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels by a PNG's or a JPEG's header, or None if it is neither.

    The header is all that is read: nothing that came out of a sandbox is decoded on this machine.
    """
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data.startswith(_JPEG_START):
        return _jpeg_size(data)
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walk a JPEG's segments to its frame header (ITU-T T.81, B.2.2)."""
    at = len(_JPEG_START)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if length < 2:
            return None
        at += 2 + length
    return None
