from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from agentexec.errors import ModelRateLimited, ReplayMismatch, SettingsError
from agentexec.models import (
    CallOptions,
    ChatMessage,
    Completion,
    Model,
    OnRetry,
    OnText,
    RecordingModel,
    ReplayModel,
    Usage,
    make_model,
)


def ask(role: str, text: str = "hi") -> list[ChatMessage]:
    return [ChatMessage("system", f"You are the {role}.\nBe brief."), ChatMessage("user", text)]


class Scripted(Model):
    name = "scripted"

    def __init__(self, *answers: Completion | Exception) -> None:
        self.answers = list(answers)
        self.closed = False

    async def complete(
        self,
        messages: object,
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if on_text is not None:
            on_text(answer.text)
        return answer

    async def close(self) -> None:
        self.closed = True


FIRST = Completion("plan\n1. do it", Usage(input_tokens=5, output_tokens=2), Decimal("0.0012"), "stop", "gpt-x")
SECOND = Completion("FINAL ANSWER: 4 🙂\u2028", None, None, "length", "gpt-x")


@pytest.fixture
async def recording(tmp_path: Path) -> Path:
    path = tmp_path / "run.jsonl"
    path.write_text("an older recording\n")
    model = RecordingModel(Scripted(FIRST, SECOND), path)
    assert model.name == "scripted"
    await model.complete(ask("planner"))
    await model.complete(ask("coder"))
    return path


async def test_recorded_run_replays_to_the_same_replies(recording: Path) -> None:
    model = make_model(f"replay:{recording}")
    assert isinstance(model, ReplayModel)
    pieces: list[str] = []
    assert await model.complete(ask("coder"), on_text=pieces.append) == SECOND
    assert "".join(pieces) == SECOND.text
    assert len(pieces) > 1
    assert await model.complete(ask("planner", "another question")) == FIRST


async def test_recording_holds_one_line_per_call_and_not_the_conversation(recording: Path) -> None:
    lines = [json.loads(line) for line in recording.read_text().split("\n") if line]
    assert [line["role"] for line in lines] == ["You are the planner.", "You are the coder."]
    assert lines[0]["request"].startswith("sha256:")
    assert lines[0]["cost"] == "0.0012"
    assert lines[1]["cost"] is None
    assert "Be brief" not in recording.read_text()


async def test_failed_call_is_not_recorded(tmp_path: Path) -> None:
    inner = Scripted(ModelRateLimited("no"), FIRST)
    model = RecordingModel(inner, tmp_path / "run.jsonl")
    with pytest.raises(ModelRateLimited):
        await model.complete(ask("planner"))
    await model.complete(ask("planner"))
    await model.close()
    assert inner.closed
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 1


async def test_replies_run_out(recording: Path) -> None:
    model = ReplayModel(recording)
    await model.complete(ask("coder"))
    with pytest.raises(ReplayMismatch, match=r"no reply number 2 for 'You are the coder\.'"):
        await model.complete(ask("coder"))


async def test_role_that_was_not_recorded(recording: Path) -> None:
    with pytest.raises(ReplayMismatch, match=r"'You are the reviewer\.'.*1 for 'You are the planner\.'"):
        await ReplayModel(recording).complete(ask("reviewer"))


async def test_strict_replay_refuses_another_request(recording: Path) -> None:
    model = ReplayModel(recording, strict=True)
    await model.complete(ask("planner"))
    with pytest.raises(ReplayMismatch, match="another request"):
        await model.complete(ask("coder", "something else"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"role": "a", "text": "b"}\n{"role": 7}\n', "line 2"),
        (b"not json\n", "line 1"),
        (b'{"role": "a", "text": "b", "texts": 1}\n', "texts"),
    ],
)
def test_file_that_is_not_a_recorded_run(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "run.jsonl").write_bytes(content)
    with pytest.raises(SettingsError, match=said):
        ReplayModel(tmp_path / "run.jsonl")


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        make_model(f"replay:{tmp_path}/none.jsonl")
