"""Pictures: taken from what blocks displayed, bounded, named in the text, and passed on to models."""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib
from collections.abc import Sequence

import pytest
from pydantic import TypeAdapter, ValidationError

from agentexec.agents.base import ModelAgent
from agentexec.agents.executor import ExecutorAgent
from agentexec.agents.pictures import MAX_BYTES, MAX_PICTURES, Gallery
from agentexec.conversation import Conversation
from agentexec.events import AnyEvent, Message, MessageAdded, Picture
from agentexec.log import EventLog
from agentexec.models.base import ChatMessage
from agentexec.models.replay import digest
from agentexec.pictures import picture_size
from sandboxes.fake import FakeExecutor
from sandboxes.types import CodeBlock, Display, Result, WorkspaceFile
from tests.agentexec.doubles import ScriptedModel, run


def png(width: int = 2, height: int = 1, filling: int = 0) -> bytes:
    """Return a real PNG, with `filling` bytes of a chunk that nobody reads."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + b"\x7f" * width for _ in range(height)))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"teSt", b"x" * filling)
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
    b"\xff\xc0\x00\x0b\x08\x00\x05\x00\x07\x01\x01\x11\x00\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\xd2\xff\xd9"
)


def show(*contents: bytes, kind: str = "image/png", saved: Sequence[str] = ()) -> Result:
    """Return the result of a block that displayed pictures."""
    displays = tuple(
        Display(data={"text/plain": "<Figure>", kind: base64.encodebytes(each).decode()}) for each in contents
    )
    files = tuple(
        WorkspaceFile(path=path, size=len(each), sha256=hashlib.sha256(each).hexdigest())
        for path, each in zip(saved, contents, strict=False)
    )
    return Result(verdict="ok", exit_code=0, displays=displays, files=files)


def test_size_is_read_from_the_header() -> None:
    assert picture_size(png(640, 480)) == (640, 480)
    assert picture_size(JPEG) == (7, 5)
    for other in (b"", b"GIF89a", png()[:20], JPEG[:12], b"\xff\xd8\xff\xe0\x00\x00" * 9, b"\xff\xd8" + b"\xff" * 99):
        assert picture_size(other) is None


def test_picture_is_base64_in_json_and_comes_back() -> None:
    picture = Picture(name="plot-1.png", media_type="image/png", data=bytes(range(256)))
    event = MessageAdded(message=Message(sender="executor", content="x", turn=3, pictures=(picture,)))
    adapter: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)
    plain = event.model_dump(mode="json")
    assert plain["message"]["pictures"][0]["data"] == base64.b64encode(picture.data).decode()
    assert adapter.validate_json(event.model_dump_json()) == event
    assert adapter.validate_python(plain) == event
    with pytest.raises(ValidationError, match="data"):
        Picture(name="x", media_type="image/png", data="no base64!")
    # What was written before there were pictures can still be read.
    del plain["message"]["pictures"]
    assert adapter.validate_python(plain).message.pictures == ()  # type: ignore[union-attr]
    assert len(repr(picture)) < 100


def test_pictures_are_named_by_the_files_they_were_saved_as() -> None:
    gallery = Gallery()
    one, two = png(1), png(2)
    assert gallery.add(show(one, two, one, saved=["plot-1.png", "plot-2.png", "plot-3.png"])) == [
        "saved as plot-1.png, attached as picture 1",
        "saved as plot-2.png, attached as picture 2",
        "saved as plot-3.png, attached as picture 3",
    ]
    assert gallery.add(show(JPEG)) == ["not saved, attached as picture 4"]
    assert [picture.name for picture in gallery.pictures] == [
        "plot-1.png",
        "plot-2.png",
        "plot-3.png",
        "unsaved picture 1",
    ]
    # Servers refuse what is not what it claims to be.
    assert gallery.pictures[3].media_type == "image/jpeg"
    assert gallery.pictures[1].data == two


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"GIF89a", "it is no PNG or JPEG"),
        (png(9000, 1), "it is 9000 x 1 pixels"),
        (png(filling=MAX_BYTES), "a message shows at most 4 MiB"),
        (b"", "it is no PNG or JPEG"),
    ],
)
def test_what_is_no_picture_or_too_much_is_left_out_and_told(content: bytes, why: str) -> None:
    gallery = Gallery()
    (words,) = gallery.add(show(content, saved=["plot-1.png"]))
    assert words.startswith("saved as plot-1.png, not attached: ")
    assert why in words
    assert gallery.pictures == ()


def test_a_message_holds_a_bounded_number() -> None:
    gallery = Gallery()
    words = gallery.add(show(*(png(n) for n in range(1, 31))))
    assert len(gallery.pictures) == MAX_PICTURES
    assert words[-1] == "not saved, not attached: a message shows at most 8 pictures"


class Showing(FakeExecutor):
    """Shows a picture with every block."""

    async def run(self, block: CodeBlock, **options: object) -> Result:
        return show(png(), saved=["plot-1.png"])


async def test_the_executors_message_carries_pictures_to_the_models() -> None:
    conversation = Conversation("Plot.", EventLog())
    conversation.add("coder", run("plot()"))
    async with Showing() as executor:
        added = conversation.add("executor", await ExecutorAgent(executor).reply(conversation))
    assert added.turn == 2
    assert [picture.data for picture in added.pictures] == [png()]
    assert "display (text/plain, image/png), saved as plot-1.png, attached as picture 1" in added.content
    (last,) = [event for event in conversation.log if isinstance(event, MessageAdded)][2:]
    assert last.message == added

    for name in ("coder", "reviewer"):
        model = ScriptedModel(coder=["Good."], reviewer=["APPROVE"])
        await ModelAgent(name, model, f"You are the {name}.").reply(conversation)
        ((_, messages),) = model.calls
        assert [len(message.pictures) for message in messages][-1] == 1
        assert sum(len(message.pictures) for message in messages) == 1


async def test_pictures_of_several_messages_come_together_in_order() -> None:
    model = ScriptedModel(coder=["Good.", "Good."])
    agent = ModelAgent("coder", model, "You are the coder.")
    conversation = Conversation("Plot.", EventLog())
    pictures = [Picture(name=f"{n}.png", media_type="image/png", data=png(n)) for n in (1, 2)]
    conversation.add("executor", Message(sender="x", content="one", pictures=(pictures[0],)))
    await agent.reply(conversation)
    conversation.add("executor", Message(sender="x", content="two", pictures=(pictures[1],)))
    await agent.reply(conversation)
    assert [message.pictures for message in model.calls[0][1]] == [(), (pictures[0],)]
    assert [message.pictures for message in model.calls[1][1]] == [(), tuple(pictures)]
    assert model.calls[1][1][1].content.endswith("# Message from the executor\n\ntwo")


def test_digest_of_a_request_counts_pictures() -> None:
    picture = Picture(name="1.png", media_type="image/png", data=png())
    bare, seen = [ChatMessage("user", "x")], [ChatMessage("user", "x", (picture,))]
    other = [ChatMessage("user", "x", (picture.model_copy(update={"data": png(3)}),))]
    assert len({digest(bare), digest(seen), digest(other)}) == 3
    # As it was before there were pictures, so that older recordings still match.
    assert digest(bare) == "sha256:" + hashlib.sha256(b'[["user", "x"]]').hexdigest()
