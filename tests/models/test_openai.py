"""OpenAIModel against a real HTTP server that speaks the protocol, and breaks it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from typing import Any

import pytest

from agentexec import errors
from agentexec.models import ChatMessage, ModelRetry, OpenAIModel, Retries, Usage, openai, reply
from agentexec.pictures import Picture
from tests.openai_server import Fault, OpenAIServer, error_body

HELLO = [ChatMessage("system", "You are the coder."), ChatMessage("user", "Say hello.")]
FAST = Retries(first_delay=0.01, longest_delay=0.02)
MakeModel = Callable[..., OpenAIModel]


@pytest.fixture
async def make(server: OpenAIServer) -> AsyncIterator[MakeModel]:
    made: list[OpenAIModel] = []

    def build(name: str = "gpt-4o-mini", **options: Any) -> OpenAIModel:
        defaults = {"base_url": server.url, "api_key": "sk-test-0123456789", "retries": FAST, "timeout": 5.0}
        made.append(OpenAIModel(name, **{**defaults, **options}))
        return made[-1]

    yield build
    for model in made:
        await model.close()


async def test_streams_a_reply_with_usage_and_cost(server: OpenAIServer, make: MakeModel) -> None:
    pieces: list[str] = []
    answer = await make().complete(HELLO, on_text=pieces.append)
    assert answer.text == "Hello from the server."
    assert pieces == ["Hello ", "from ", "the ", "server."]
    assert answer.usage == Usage(input_tokens=100, output_tokens=20, cached_tokens=64, reasoning_tokens=7)
    assert answer.cost is not None
    assert answer.cost > 0
    assert answer.finish_reason == "stop"
    assert answer.model == "gpt-4o-mini"


async def test_sends_the_conversation_and_the_key(server: OpenAIServer, make: MakeModel) -> None:
    await make().complete(HELLO)
    assert server.requests[0]["messages"] == [
        {"role": "system", "content": "You are the coder."},
        {"role": "user", "content": "Say hello."},
    ]
    assert server.requests[0]["stream"] is True
    assert server.headers[0]["authorization"] == "Bearer sk-test-0123456789"


async def test_pieces_arrive_while_the_model_still_writes(server: OpenAIServer, make: MakeModel) -> None:
    server.delay = 0.1
    times: list[float] = []
    await make().complete(HELLO, on_text=lambda _: times.append(time.monotonic()))
    assert times[-1] - times[0] > 0.25


async def test_server_and_key_come_from_the_environment(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-environment")
    model = OpenAIModel("gpt-4o-mini")
    await model.complete(HELLO)
    await model.close()
    assert server.headers[0]["authorization"] == "Bearer sk-from-environment"


async def test_text_holding_line_separators_survives(server: OpenAIServer, make: MakeModel) -> None:
    text = "a\u2028b\u0085c\x0bd\r\ne — ü 🙂"
    server.replies = {"*": [text]}
    assert (await make().complete(HELLO)).text == text


@pytest.mark.parametrize("pieces", [["\\ud83d\\ude42"], ["\\ud83d", "\\ude42"]])
async def test_surrogate_pair_is_one_character_also_in_two_pieces(
    server: OpenAIServer, make: MakeModel, pieces: list[str]
) -> None:
    chunks = "".join(f'data: {{"choices": [{{"delta": {{"content": "{piece}"}}}}]}}\n\n' for piece in pieces)
    server.faults = [Fault("raw", body=chunks + "data: [DONE]\n\n")]
    assert (await make().complete(HELLO)).text == "\U0001f642"


async def test_half_a_surrogate_pair_is_replaced(server: OpenAIServer, make: MakeModel) -> None:
    server.faults = [Fault("raw", body='data: {"choices": [{"delta": {"content": "a\\ud83db"}}]}\n\ndata: [DONE]\n\n')]
    assert (await make().complete(HELLO)).text == "a\ufffdb"


async def test_server_without_usage_gives_none(server: OpenAIServer, make: MakeModel) -> None:
    server.usage = None
    answer = await make().complete(HELLO)
    assert answer.usage is None
    assert answer.cost is None


async def test_unknown_model_has_no_price(make: MakeModel) -> None:
    answer = await make("my-own-model").complete(HELLO)
    assert answer.usage is not None
    assert answer.cost is None


async def test_server_that_refuses_stream_options(server: OpenAIServer, make: MakeModel) -> None:
    server.refuse_stream_options = True
    model = make()
    retries: list[ModelRetry] = []
    assert (await model.complete(HELLO, on_retry=retries.append)).text == "Hello from the server."
    await model.complete(HELLO)
    assert ["stream_options" in request for request in server.requests] == [True, False, False]
    assert retries == []


async def test_server_that_ignores_stream(server: OpenAIServer, make: MakeModel) -> None:
    server.stream = False
    pieces: list[str] = []
    answer = await make().complete(HELLO, on_text=pieces.append)
    assert answer.text == "".join(pieces) == "Hello from the server."
    assert answer.usage is not None


async def test_server_that_refuses_stream(server: OpenAIServer, make: MakeModel) -> None:
    refusal = error_body("stream=true is not supported")
    server.faults = [Fault("status", status=400, body=refusal)]
    assert (await make().complete(HELLO)).text == "Hello from the server."
    assert "stream" not in server.requests[1]


async def test_stream_without_done_but_with_finish_reason(server: OpenAIServer, make: MakeModel) -> None:
    server.done = False
    assert (await make().complete(HELLO)).text == "Hello from the server."


async def test_content_in_parts(server: OpenAIServer, make: MakeModel) -> None:
    chunk = '{"choices": [{"delta": {"content": [{"type": "text", "text": "in "}, {"text": "parts"}]}}]}'
    server.faults = [Fault("raw", body=f"data: {chunk}\n\ndata: [DONE]\n\n")]
    assert (await make().complete(HELLO)).text == "in parts"


async def test_connection_lost_after_the_whole_text_is_forgiven(server: OpenAIServer, make: MakeModel) -> None:
    server.faults = [Fault("drop_usage")]
    answer = await make().complete(HELLO)
    assert answer.text == "Hello from the server."
    assert answer.usage is None
    assert len(server.requests) == 1


BROKEN = [
    Fault("drop"),
    Fault("end"),
    Fault("garbage"),
    Fault("raw", body="data: 7\n\n"),
    Fault("error_event", body=error_body("The engine is overloaded")),
    Fault("status", status=500),
    Fault("status", status=503),
    Fault("status", status=429),
    Fault("status", status=408),
]


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: f"{fault.kind}-{fault.status}")
async def test_passing_failure_is_tried_again(server: OpenAIServer, make: MakeModel, fault: Fault) -> None:
    server.faults = [fault, fault]
    pieces: list[str] = []
    retries: list[ModelRetry] = []

    def on_retry(retry: ModelRetry) -> None:
        retries.append(retry)
        pieces.clear()

    answer = await make().complete(HELLO, on_text=pieces.append, on_retry=on_retry)
    assert answer.text == "".join(pieces) == "Hello from the server."
    assert [retry.attempt for retry in retries] == [1, 2]
    assert all(retry.reason for retry in retries)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("drop"), errors.ModelStreamBroken),
        (Fault("end"), errors.ModelStreamBroken),
        (Fault("garbage"), errors.ModelStreamBroken),
        (Fault("status", status=429), errors.ModelRateLimited),
        (Fault("status", status=500), errors.ModelRefused),
        (Fault("error_event", body=error_body("overloaded")), errors.ModelRefused),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
async def test_retries_are_bounded(
    server: OpenAIServer, make: MakeModel, fault: Fault, kind: type[errors.ModelError]
) -> None:
    server.faults = [fault] * 10
    retries: list[ModelRetry] = []
    with pytest.raises(kind, match="tried 3 times"):
        await make(retries=Retries(attempts=3, first_delay=0.01)).complete(HELLO, on_retry=retries.append)
    assert len(server.requests) == 3
    assert len(retries) == 2


def overflow(message: str, code: str | None = None) -> Fault:
    return Fault("status", status=400, body=error_body(message, code))


REFUSED = [
    (Fault("status", status=401, body=error_body("Bad key")), errors.ModelAuthError, "OPENAI_API_KEY"),
    (Fault("status", status=403), errors.ModelAuthError, "OPENAI_API_KEY"),
    (overflow("too long", "context_length_exceeded"), errors.ModelContextOverflow, "larger window"),
    (overflow("This model's maximum context length is 8192 tokens."), errors.ModelContextOverflow, "8192"),
    (overflow("the request exceeds the available context size"), errors.ModelContextOverflow, "fits"),
    (overflow("prompt is too long: 9 > 8"), errors.ModelContextOverflow, "fits"),
    (
        overflow("Invalid model name passed in model=gpt-4o-mini. Call `/v1/models`"),  # LiteLLM
        errors.ModelNotFound,
        "AGENTEXEC_MODEL",
    ),
    (
        Fault("status", status=404, body={"error": 'model "x" not found, try pulling it first'}),  # Ollama
        errors.ModelNotFound,
        "AGENTEXEC_MODEL",
    ),
    (Fault("status", status=404, body={"detail": "Not Found"}), errors.ModelRefused, "/v1"),
    (Fault("status", status=400, body=error_body("no such parameter")), errors.ModelRefused, "no such param"),
    (
        Fault("status", status=429, body=error_body("You exceeded your quota", "insufficient_quota")),
        errors.ModelRateLimited,
        "quota",
    ),
    (Fault("raw", body="<html>hi</html>", headers={"Content-Type": "text/html"}), errors.ModelRefused, "/v1"),
    (
        Fault("raw", body='{"status": "ok"}', headers={"Content-Type": "application/json"}),
        errors.ModelRefused,
        "/v1",
    ),
    (
        Fault("error_event", body=error_body("too long", "context_length_exceeded")),
        errors.ModelContextOverflow,
        "fits",
    ),
]


@pytest.mark.parametrize(("fault", "kind", "said"), REFUSED)
async def test_lasting_refusal_is_not_tried_again(
    server: OpenAIServer, make: MakeModel, fault: Fault, kind: type[errors.ModelError], said: str
) -> None:
    server.faults = [fault]
    with pytest.raises(kind, match=said):
        await make().complete(HELLO)
    assert len(server.requests) == 1


async def test_reply_in_one_piece_is_bounded(
    server: OpenAIServer, make: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "MAX_EVENT_BYTES", 100_000)
    body = '{"choices": [{"message": {"content": "x"}}]' + " " * 200_000 + "}"
    server.faults = [Fault("raw", body=body, headers={"Content-Type": "application/json"})]
    with pytest.raises(errors.ModelStreamBroken, match="more than 100000 bytes"):
        await make().complete(HELLO)
    assert len(server.requests) == 1


@pytest.mark.parametrize("part", ["name", "arguments"])
async def test_names_and_arguments_of_tool_calls_are_bounded(
    server: OpenAIServer, make: MakeModel, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(reply, "MAX_REPLY_CHARS", 1000)
    call = {"index": 0, "id": "call_1", "function": {part: "x" * 300}}
    event = "data: " + json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]}) + "\n\n"
    server.faults = [Fault("raw", body=event * 4)]
    with pytest.raises(errors.ModelStreamBroken, match="more than 1000 characters"):
        await make().complete(HELLO)


async def test_unknown_model(server: OpenAIServer, make: MakeModel) -> None:
    server.models = {"other"}
    with pytest.raises(errors.ModelNotFound, match=r"'gpt-4o-mini'.*AGENTEXEC_MODEL"):
        await make().complete(HELLO)


async def test_wrong_path_says_what_a_base_url_looks_like(server: OpenAIServer, make: MakeModel) -> None:
    with pytest.raises(errors.ModelRefused, match="usually ends in /v1"):
        await make(base_url=server.url.removesuffix("/v1")).complete(HELLO)


async def test_key_is_never_shown(server: OpenAIServer, make: MakeModel) -> None:
    server.key = "another"
    with pytest.raises(errors.ModelAuthError) as caught:
        await make().complete(HELLO)
    assert "sk-test-0123456789" not in str(caught.value)
    assert "***" in str(caught.value)
    assert "sk-test" not in repr(make())


async def test_server_without_a_key_of_its_own(server: OpenAIServer, make: MakeModel) -> None:
    assert (await make(api_key=None).complete(HELLO)).text


async def test_what_a_server_says_is_one_bounded_printable_line(server: OpenAIServer, make: MakeModel) -> None:
    server.faults = [Fault("status", status=400, body=error_body("\x1b]52;c;x\x07\nno\n" + "x" * 10_000))]
    with pytest.raises(errors.ModelRefused) as caught:
        await make().complete(HELLO)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


async def test_retry_after_is_honoured(server: OpenAIServer, make: MakeModel) -> None:
    server.faults = [Fault("status", status=429, headers={"Retry-After": "0.3"})]
    retries: list[ModelRetry] = []
    await make().complete(HELLO, on_retry=retries.append)
    assert server.times[1] - server.times[0] >= 0.3
    assert 0.3 <= retries[0].delay < 0.4


@pytest.mark.parametrize(
    "headers",
    [{"retry-after-ms": "300"}, {"Retry-After": formatdate(time.time() + 86400, usegmt=True)}],
    ids=["milliseconds", "date"],
)
async def test_other_forms_of_retry_after(server: OpenAIServer, make: MakeModel, headers: dict[str, str]) -> None:
    server.faults = [Fault("status", status=503, headers=headers)]
    model = make(retries=Retries(first_delay=0.01, longest_wait=0.1))
    with pytest.raises(errors.ModelRefused):  # longer than this caller waits
        await model.complete(HELLO)
    assert len(server.requests) == 1


async def test_unreadable_retry_after_is_ignored(server: OpenAIServer, make: MakeModel) -> None:
    server.faults = [Fault("status", status=429, headers={"Retry-After": "soon"})]
    assert (await make().complete(HELLO)).text


async def test_retry_after_beyond_the_bound_ends_the_call(server: OpenAIServer, make: MakeModel) -> None:
    server.faults = [Fault("status", status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(errors.ModelRateLimited, match="3600 s"):
        await make().complete(HELLO)
    assert len(server.requests) == 1


async def test_stalled_stream_is_bounded(server: OpenAIServer, make: MakeModel) -> None:
    server.faults = [Fault("stall")]
    start = time.monotonic()
    with pytest.raises(errors.ModelStreamBroken, match=r"nothing came for 0\.2 s"):
        await make(timeout=0.2, retries=Retries(attempts=1)).complete(HELLO)
    assert time.monotonic() - start < 20


async def test_silent_server_is_bounded(server: OpenAIServer, make: MakeModel) -> None:
    server.faults = [Fault("silent")]
    with pytest.raises(errors.ModelUnreachable, match=r"no answer within 0\.2 s"):
        await make(timeout=0.2, retries=Retries(attempts=1)).complete(HELLO)


async def test_unreachable_server(make: MakeModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    model = make(base_url=f"http://user:secret@127.0.0.1:{port}/v1", retries=Retries(attempts=2, first_delay=0.01))
    with pytest.raises(errors.ModelUnreachable, match=r"OPENAI_BASE_URL.*tried 2 times") as caught:
        await model.complete(HELLO)
    assert "secret" not in str(caught.value)


async def test_name_that_does_not_resolve(make: MakeModel) -> None:
    model = make(base_url="http://nowhere.invalid/v1", retries=Retries(attempts=1))
    with pytest.raises(errors.ModelUnreachable, match=r"nowhere\.invalid"):
        await model.complete(HELLO)


async def test_cancelling_leaves_the_connection(server: OpenAIServer, make: MakeModel) -> None:
    server.faults = [Fault("stall")]
    started = asyncio.Event()
    model = make()
    call = asyncio.create_task(model.complete(HELLO, on_text=lambda _: started.set()))
    await started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await model.complete(HELLO)).text


def test_one_model_in_several_event_loops(server: OpenAIServer) -> None:
    model = OpenAIModel("gpt-4o-mini", base_url=server.url)

    async def once() -> str:
        try:
            return (await model.complete(HELLO)).text
        finally:
            await model.close()

    assert asyncio.run(once()) == asyncio.run(once()) == "Hello from the server."


def test_missing_key_says_what_to_set() -> None:
    with pytest.raises(errors.ModelAuthError, match="OPENAI_API_KEY"):
        OpenAIModel("gpt-5-mini")


@pytest.mark.parametrize(("name", "url"), [(" ", "http://x/v1"), ("m", "localhost:8000/v1")])
def test_settings_that_cannot_be_right(name: str, url: str) -> None:
    with pytest.raises(errors.SettingsError):
        OpenAIModel(name, base_url=url)


def test_making_a_model_imports_neither_openai_nor_prices() -> None:
    code = (
        "import sys, agentexec.models as m; m.make_model('x', base_url='http://localhost/v1');"
        "print([n for n in ('openai', 'genai_prices', 'httpx2') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.stdout == "[]\n", done.stderr


# Pictures


def png(number: int = 0) -> bytes:
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x02\x00\x00\x00\x03" + bytes([number])


def shown(*numbers: int) -> list[ChatMessage]:
    pictures = tuple(Picture(name=f"plot-{n}.png", media_type="image/png", data=png(n)) for n in numbers)
    return [HELLO[0], ChatMessage("user", "Look.", pictures)]


def names_sent(request: dict[str, Any]) -> list[str]:
    content = request["messages"][1]["content"]
    if isinstance(content, str):
        return []
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    data = [base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True) for url in urls]
    assert all(each == png(each[-1]) for each in data)
    return [f"plot-{each[-1]}.png" for each in data]


async def test_pictures_are_sent_as_image_parts_with_their_names(server: OpenAIServer, make: MakeModel) -> None:
    await make().complete(shown(1, 2))
    (_, message) = server.requests[0]["messages"]
    assert [part["type"] for part in message["content"]] == ["text", "text", "image_url", "text", "image_url"]
    assert [part.get("text") for part in message["content"]] == ["Look.", "plot-1.png:", None, "plot-2.png:", None]
    assert names_sent(server.requests[0]) == ["plot-1.png", "plot-2.png"]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "Invalid content type. image_url is only supported by certain models."),
        (404, "No endpoints found that support image input"),
        (415, "no"),
        (422, "messages.1.content: Input should be a valid string"),
        (400, "qwen is not a multimodal model"),
        (500, "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"),
    ],
)
async def test_server_that_refuses_pictures_is_asked_without_from_then_on(
    server: OpenAIServer, make: MakeModel, status: int, said: str
) -> None:
    server.faults = [Fault("status", status=status, body=error_body(said))]
    model, retries = make(), list[ModelRetry]()
    assert (await model.complete(shown(1, 2), on_retry=retries.append)).text == "Hello from the server."
    await model.complete(shown(1, 2, 3))
    assert [names_sent(request) for request in server.requests] == [["plot-1.png", "plot-2.png"], [], []]
    asked = [request["messages"][1]["content"] for request in server.requests]
    assert asked[1] == "Look.\n\n(You cannot see these pictures: plot-1.png, plot-2.png.)"
    assert retries == []


async def test_pictures_can_be_off(server: OpenAIServer, make: MakeModel) -> None:
    await make(images="off").complete(shown(1))
    assert server.requests[0]["messages"][1]["content"] == "Look.\n\n(You cannot see these pictures: plot-1.png.)"


async def test_server_that_takes_one_picture_gets_the_newest(server: OpenAIServer, make: MakeModel) -> None:
    said = error_body("At most 1 image(s) may be provided in one prompt.")
    server.faults = [Fault("status", status=400, body=said)]
    model = make()
    await model.complete(shown(1, 2))
    await model.complete(shown(1, 2, 3))
    assert [names_sent(request) for request in server.requests] == [
        ["plot-1.png", "plot-2.png"],
        ["plot-2.png"],
        ["plot-3.png"],
    ]


async def test_a_bad_picture_does_not_cost_the_sight_of_later_ones(server: OpenAIServer, make: MakeModel) -> None:
    server.faults = [Fault("status", status=400, body=error_body("Could not process image"))]
    model = make()
    await model.complete(shown(1))
    await model.complete(shown(1, 2))
    assert [names_sent(request) for request in server.requests] == [["plot-1.png"], [], ["plot-2.png"]]


async def test_a_request_holds_a_bounded_number_of_pictures(server: OpenAIServer, make: MakeModel) -> None:
    await make().complete(shown(*range(30)))
    assert names_sent(server.requests[0]) == [f"plot-{n}.png" for n in range(10, 30)]
    assert "plot-9.png.)" in server.requests[0]["messages"][1]["content"][0]["text"]


@pytest.mark.parametrize("status", [400, 500])
async def test_other_refusals_do_not_cost_the_sight(server: OpenAIServer, make: MakeModel, status: int) -> None:
    server.faults = [
        Fault("status", status=status, body=error_body("The temperature is wrong, image or not" * (status == 500)))
    ] * 9
    model = make()
    with pytest.raises(errors.ModelRefused):
        await model.complete(shown(1))
    assert all(names_sent(request) == ["plot-1.png"] for request in server.requests)
    server.faults.clear()
    await model.complete(shown(1))
    assert names_sent(server.requests[-1]) == ["plot-1.png"]
