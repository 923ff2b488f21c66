"""What of the pictures that blocks displayed goes along with the executor's message."""

from __future__ import annotations

import base64
import hashlib
from typing import get_args

from agentexec.pictures import LONGEST_SIDE, Picture, PictureType, picture_size
from agentexec.visible import visible
from sandboxes.types import Display, Result

MAX_PICTURES, MAX_BYTES = 8, 4 << 20
"""Number and bytes of the pictures of one message: each goes with every further call of a model, and into the log."""

_TYPES: tuple[PictureType, ...] = get_args(PictureType)


class Gallery:
    """The pictures of one message, as far as they are few and small enough to be sent to a model."""

    def __init__(self) -> None:
        self._pictures: list[Picture] = []
        self._bytes = 0
        self._unnamed = 0

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """What was taken, in order."""
        return tuple(self._pictures)

    def add(self, result: Result) -> list[str]:
        """Take what a block displayed.

        Returns:
            For each display a few words that say what became of its picture; empty where there is none.
        """
        saved: dict[str, list[str]] = {}
        for file in result.files:
            if file.sha256 is not None:
                saved.setdefault(file.sha256, []).append(file.path)
        return [self._take(display, saved) for display in result.displays]

    def _take(self, display: Display, saved: dict[str, list[str]]) -> str:
        kind = next((kind for kind in _TYPES if kind in display.data), None)
        if kind is None:
            drawing = display.data.get("image/svg+xml", "")
            name = _name(drawing.encode("utf-8", "replace"), saved)
            return f"saved as {visible(name, keep='')}" if name else ""
        data = _decoded(display.data[kind])
        name = _name(data, saved)
        where = f"saved as {visible(name, keep='')}" if name else "not saved"
        why_not = self._why_not(data)
        if why_not:
            return f"{where}, not attached: {why_not}"
        if not name:
            self._unnamed += 1
            name = f"unsaved picture {self._unnamed}"
        self._pictures.append(Picture(name=name, media_type=_type_of(data), data=data))
        self._bytes += len(data)
        return f"{where}, attached as picture {len(self._pictures)}"

    def _why_not(self, data: bytes) -> str:
        size = picture_size(data)
        if size is None:
            return "it is no PNG or JPEG"
        if not 0 < min(size) <= max(size) <= LONGEST_SIDE:
            return f"it is {size[0]} x {size[1]} pixels, at most {LONGEST_SIDE} on a side are shown"
        if len(self._pictures) >= MAX_PICTURES:
            return f"a message shows at most {MAX_PICTURES} pictures"
        if self._bytes + len(data) > MAX_BYTES:
            return f"it has {len(data):,} bytes, and a message shows at most {MAX_BYTES >> 20} MiB of pictures"
        return ""


def _name(data: bytes, saved: dict[str, list[str]]) -> str:
    """Return the path of the file with a content; of several, each once."""
    paths = saved.get(hashlib.sha256(data).hexdigest(), [])
    return paths.pop(0) if paths else ""


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""


def _type_of(data: bytes) -> PictureType:
    """Return the type by the content, since servers refuse a picture that claims to be another."""
    return "image/jpeg" if data.startswith(b"\xff\xd8") else "image/png"
