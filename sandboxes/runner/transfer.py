"""Files on their way between the workspace and the host."""

from __future__ import annotations

import os

from .channel import Channel
from .files import Refused, Upload, open_regular, refusal
from .frames import CHUNK, DATA, encode

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Optional


def receive_file(channel: Channel, root: int, path: str, size: int) -> None:
    """Write what the host sends into the workspace.

    Raises:
        Refused: the path is unsafe, or there is no space; all that was sent is taken all the same.
    """
    upload: Optional[Upload] = None
    refused: Optional[Refused] = None
    try:
        upload = Upload(root, path)
    except Refused as error:
        refused = error
    received = 0
    while received < size:  # also when refused: the body is on its way
        data = channel.next_data()
        received += len(data)
        if refused is None and upload is not None:
            try:
                upload.write(data)
            except OSError as error:
                refused = refusal(error, path)
    if upload is not None:
        try:
            upload.finish(keep=refused is None)
        except OSError as error:
            refused = refused or refusal(error, path)
    if refused is not None:
        raise refused


def send_file(channel: Channel, root: int, path: str, most: int) -> None:
    """Send a regular file of the workspace to the host.

    Raises:
        Refused: there is none, or it is larger than `most` bytes.
    """
    file = open_regular(root, path)
    try:
        size = os.fstat(file).st_size
        if size > most:
            raise Refused("too_large", "%r is %d bytes; max_bytes is %d" % (path, size, most))
        sent = 0
        while sent < size:  # a file that shrinks ends early, one that grows is cut
            data = os.read(file, min(CHUNK, size - sent))
            if not data:
                break
            sent += len(data)
            channel.queue(encode(DATA, data))
            channel.flush_all()
    finally:
        os.close(file)
