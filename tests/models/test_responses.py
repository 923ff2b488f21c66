"""OpenAI's Responses, tool calls and formats, against a real HTTP server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentexec import errors
from agentexec.models import (
    CallOptions,
    ChatMessage,
    ModelRetry,
    OpenAIModel,
    ReplyFormat,
    Retries,
    Tool,
    ToolCall,
    Usage,
    make_model,
)
from agentexec.pictures import Picture
from tests.openai_server import Fault, OpenAIServer, Said, error_body

HELLO = [ChatMessage("system", "You are the coder."), ChatMessage("user", "Say hello.")]
FAST = Retries(first_delay=0.01, longest_delay=0.02)
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
FORMAT = CallOptions(format=ReplyFormat("answer", SCHEMA))
TOOLS = CallOptions(tools=(Tool("f", "Does it.", {"type": "object", "properties": {}}),))
CALLS = (("call_1", "f", '{"a": "one two"}'), ("call_2", "f", "{}"))
MakeModel = Callable[..., OpenAIModel]
PROTOCOLS = ["chat", "responses"]


@pytest.fixture
async def make(server: OpenAIServer) -> AsyncIterator[MakeModel]:
    made: list[OpenAIModel] = []

    def build(**options: Any) -> OpenAIModel:
        defaults: dict[str, Any] = {"base_url": server.url, "api_key": "sk-test-0123456789", "retries": FAST}
        made.append(OpenAIModel("gpt-5-mini", **{"timeout": 5.0, "api": "responses", **defaults, **options}))
        return made[-1]

    yield build
    for model in made:
        await model.close()


async def test_streams_a_reply_with_usage_and_cost(make: MakeModel) -> None:
    pieces: list[str] = []
    answer = await make().complete(HELLO, on_text=pieces.append)
    assert answer.text == "Hello from the server."
    assert pieces == ["Hello ", "from ", "the ", "server."]
    assert answer.usage == Usage(input_tokens=100, output_tokens=20, cached_tokens=64, reasoning_tokens=7)
    assert answer.cost is not None
    assert answer.cost > 0
    assert (answer.finish_reason, answer.model) == ("stop", "gpt-5-mini")


async def test_the_whole_conversation_goes_and_nothing_stays_there(server: OpenAIServer, make: MakeModel) -> None:
    picture = Picture(name="a.png", media_type="image/png", data=b"\x89PNG")
    said = [
        *HELLO,
        ChatMessage("assistant", "I run it.", calls=(ToolCall("c1", "f", "{}"),)),
        ChatMessage("tool", "done", call_id="c1"),
        ChatMessage("user", "Look.", pictures=(picture,)),
        ChatMessage("assistant", "", calls=(ToolCall("c2", "f", "{}"),)),
        ChatMessage("tool", "done", call_id="c2"),
    ]
    await make(parameters={"reasoning": {"effort": "low"}}).complete(said)
    body = server.requests[0]
    assert body["instructions"] == "You are the coder."
    assert (body["store"], body["reasoning"]) == (False, {"effort": "low"})
    assert body["input"] == [
        {"role": "user", "content": "Say hello."},
        {"role": "assistant", "content": "I run it."},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "done"},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look."},
                {"type": "input_text", "text": "a.png:"},
                {"type": "input_image", "image_url": picture.url, "detail": "auto"},
            ],
        },
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c2", "output": "done"},
    ]


async def test_the_prefix_of_a_name_picks_the_protocol(server: OpenAIServer) -> None:
    model = make_model("responses:gpt-5-mini", base_url=server.url, api_key="sk-x")
    assert model.name == "gpt-5-mini"
    assert (await model.complete(HELLO)).text == "Hello from the server."
    await model.close()
    assert "input" in server.requests[0]


async def test_server_that_does_not_stream(server: OpenAIServer, make: MakeModel) -> None:
    server.stream = False
    server.replies = {"*": [Said("Hello.", CALLS)]}
    answer = await make().complete(HELLO, options=TOOLS)
    assert answer.text == "Hello."
    assert [call.id for call in answer.calls] == ["call_1", "call_2"]
    assert answer.usage is not None


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("streams", [True, False])
async def test_tool_calls_come_whole(server: OpenAIServer, make: MakeModel, protocol: str, streams: bool) -> None:
    server.stream = streams
    server.replies = {"*": [Said("I run it.", CALLS)]}
    answer = await make(api=protocol).complete(HELLO, options=TOOLS)
    assert answer.text == "I run it."
    assert answer.calls == tuple(ToolCall(*call) for call in CALLS)
    tool = server.requests[0]["tools"][0]
    assert (tool["type"], tool.get("function", tool)["name"]) == ("function", "f")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_calls_and_results_go_back(server: OpenAIServer, make: MakeModel, protocol: str) -> None:
    said = [
        *HELLO,
        ChatMessage("assistant", "", calls=(ToolCall("c1", "f", "{}"),)),
        ChatMessage("tool", "4", call_id="c1"),
    ]
    await make(api=protocol).complete(said, options=TOOLS)
    body = server.requests[0]
    if protocol == "chat":
        assert body["messages"][2:] == [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "4", "tool_call_id": "c1"},
        ]
    else:
        assert [item.get("type") for item in body["input"][1:]] == ["function_call", "function_call_output"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_format_is_asked_for(server: OpenAIServer, make: MakeModel, protocol: str) -> None:
    await make(api=protocol).complete(HELLO, options=FORMAT)
    body = server.requests[0]
    if protocol == "chat":
        wanted = {"name": "answer", "schema": SCHEMA, "strict": True}
        assert body["response_format"] == {"type": "json_schema", "json_schema": wanted}
    else:
        wanted = {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}
        assert body["text"] == {"format": wanted}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_server_that_refuses_formats_is_asked_without_from_then_on(
    server: OpenAIServer, make: MakeModel, protocol: str
) -> None:
    server.refuse_formats = True
    model, retries = make(api=protocol), list[ModelRetry]()
    for _ in range(2):
        assert (await model.complete(HELLO, options=FORMAT, on_retry=retries.append)).text
    key = "response_format" if protocol == "chat" else "text"
    assert [key in request for request in server.requests] == [True, False, False]
    assert all(request["stream"] for request in server.requests)
    assert retries == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_refusal_is_marked(server: OpenAIServer, make: MakeModel, protocol: str) -> None:
    server.replies = {"*": [Said(refusal="I cannot help with that.")]}
    answer = await make(api=protocol).complete(HELLO)
    assert answer.refusal
    assert answer.text == "I cannot help with that."


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("finish", "refusal"), [("length", False), ("content_filter", True)])
async def test_an_incomplete_reply_says_why(
    server: OpenAIServer, make: MakeModel, protocol: str, finish: str, refusal: bool
) -> None:
    server.replies = {"*": [Said("Half a", finish=finish)]}
    answer = await make(api=protocol).complete(HELLO)
    assert (answer.text, answer.finish_reason, answer.refusal) == ("Half a", finish, refusal)


def stream(*events: str) -> Fault:
    return Fault("raw", body="".join(f"data: {event}\n\n" for event in events))


DELTA = '{"type": "response.output_text.delta", "delta": "par"}'
FAILED = '{"type": "response.failed", "response": {"status": "failed", "error": {"code": "%s", "message": "sorry"}}}'
ERROR = '{"type": "error", "code": "%s", "message": "sorry"}'
PASSING = [
    Fault("drop"),
    Fault("end"),
    Fault("garbage"),
    Fault("status", status=503),
    stream(DELTA),
    stream(DELTA, FAILED % "server_error"),
    stream(DELTA, ERROR % "server_error"),
    stream(DELTA, '{"type": "response.failed", "response": {"status": "failed"}}'),
]


@pytest.mark.parametrize("fault", PASSING)
async def test_passing_failure_is_tried_again(server: OpenAIServer, make: MakeModel, fault: Fault) -> None:
    server.faults = [fault, fault]
    pieces: list[str] = []
    answer = await make().complete(HELLO, on_text=pieces.append, on_retry=lambda _: pieces.clear())
    assert answer.text == "".join(pieces) == "Hello from the server."
    assert len(server.requests) == 3


LASTING = [
    (stream(FAILED % "invalid_prompt"), errors.ModelDeclined, "declined"),
    (stream(ERROR % "context_length_exceeded"), errors.ModelContextOverflow, "fits"),
    (Fault("status", status=400, body=error_body("filtered", "content_filter")), errors.ModelDeclined, "filtered"),
    (
        Fault("raw", body='{"ok": 1}', headers={"Content-Type": "application/json"}),
        errors.ModelRefused,
        "does not speak the Responses protocol",
    ),
    (Fault("status", status=404, body={"detail": "Not Found"}), errors.ModelRefused, "Responses"),
]


@pytest.mark.parametrize(("fault", "kind", "said"), LASTING)
async def test_lasting_refusal_is_not(
    server: OpenAIServer, make: MakeModel, fault: Fault, kind: type[errors.ModelError], said: str
) -> None:
    server.faults = [fault]
    with pytest.raises(kind, match=said):
        await make().complete(HELLO)
    assert len(server.requests) == 1


async def test_rate_limits_inside_a_stream(server: OpenAIServer, make: MakeModel) -> None:
    server.faults = [stream(FAILED % "rate_limit_exceeded")] * 9
    with pytest.raises(errors.ModelRateLimited, match="tried 5 times"):
        await make().complete(HELLO)


async def test_events_that_nobody_knows_and_fields_of_other_types_are_passed_over(
    server: OpenAIServer, make: MakeModel
) -> None:
    server.faults = [
        stream(
            '{"type": "response.new_thing", "delta": 7}',
            '{"type": "response.output_item.done", "item": null}',
            '{"type": "response.output_text.delta", "delta": null}',
            '{"type": "response.output_text.delta", "item_id": "m1", "delta": "one"}',
            '{"type": "response.output_text.delta", "item_id": "m2", "delta": "two"}',
            '{"type": "response.completed", "response": {"status": "completed", "usage": "none", "output": 3}}',
        )
    ]
    answer = await make().complete(HELLO)
    assert (answer.text, answer.usage) == ("one\n\ntwo", None)


@pytest.mark.parametrize(
    ("deltas", "calls"),
    [
        # Without numbers, as some servers have it; with one number for all; decoded; without an id.
        (
            '[{"id": "a", "function": {"name": "f", "arguments": "{"}}]|[{"function": {"arguments": "}"}}]',
            [("a", "{}")],
        ),
        (
            '[{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]|'
            '[{"index": 0, "id": "b", "function": {"name": "f", "arguments": "[]"}}]',
            [("a", "{}"), ("b", "[]")],
        ),
        ('[{"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": 1}}}]', [("a", '{"x": 1}')]),
        ('[{"index": 0, "function": {"name": "f", "arguments": "{}"}}]', [("call_0", "{}")]),
        ('[{"index": "x", "id": 7, "function": null}]|["no"]|7', []),
    ],
)
async def test_tool_calls_as_servers_vary_them(
    server: OpenAIServer, make: MakeModel, deltas: str, calls: list[tuple[str, str]]
) -> None:
    events = [f'{{"choices": [{{"delta": {{"tool_calls": {delta}}}}}]}}' for delta in deltas.split("|")]
    server.faults = [stream(*events, '{"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}', "[DONE]")]
    answer = await make(api="chat").complete(HELLO, options=TOOLS)
    assert [(call.id, call.arguments) for call in answer.calls] == calls
