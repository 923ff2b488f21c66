"""A real HTTP server on loopback that speaks OpenAI's chat completions and Responses, with faults on request.

    with OpenAIServer() as server:
        server.replies["coder"] = ["FINAL ANSWER: 4"]      # by role: system prompt `You are the coder.`
        server.faults.append(Fault("status", status=429, headers={"Retry-After": "0.1"}))
        ... OPENAI_BASE_URL = server.url ...

Each request takes the next fault, if one is left, else the next reply of its role (the last one stays).
It runs in a thread, so that tests may use it from processes and from event loops alike.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal

from tests.loopback import HttpServer, LoopbackServer

USAGE: dict[str, Any] = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 7},
}

Kind = Literal[
    "status",  # answer with `status`, `headers` and `body`
    "drop",  # send `pieces` pieces, then reset the connection
    "end",  # send `pieces` pieces, then end the stream in good order without finish_reason or [DONE]
    "stall",  # send `pieces` pieces, then nothing until the client leaves
    "silent",  # never answer
    "garbage",  # a chunk that is not JSON
    "error_event",  # an error object inside the stream: `body`
    "raw",  # send `body` (str) as it is, with content type `headers["Content-Type"]`
    "drop_usage",  # the whole text and finish_reason, then reset before usage and [DONE]
]


@dataclass(frozen=True)
class Said:
    """A reply that is more than text.

    Attributes:
        text: Its words.
        calls: Tool calls: id, name, arguments.
        refusal: What the model says when it declines.
        finish: Chat completions' finish reason; `length` and `content_filter` make a response incomplete.
    """

    text: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()
    refusal: str = ""
    finish: str = "stop"


@dataclass
class Fault:
    """How the next request goes wrong."""

    kind: Kind
    status: int = 500
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    pieces: int = 2


def error_body(message: str, code: str | None = None) -> dict[str, Any]:
    """Return an error as OpenAI words it."""
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


class OpenAIServer(LoopbackServer):
    """See the module's docstring.

    Attributes:
        replies: Role (`coder`) to replies in order; `*` for any role.
        faults: What goes wrong with the next requests, in order.
        requests: Every request's decoded body, in order.
        headers: Every request's headers.
        times: When each request came, by `time.monotonic`.
        key: The only key that is taken; None takes any.
        models: The only models there are; None knows any.
        usage: The usage object; None leaves it out, as servers without usage do.
        stream: Whether streaming is spoken; else `stream` is ignored, as some servers do.
        done: Whether the stream ends with `[DONE]`.
        refuse_stream_options: Answer 400 to a request with `stream_options`, as older servers do.
        refuse_formats: Answer 400 to a request for a JSON schema, as servers do that know none.
        window: Characters of all messages beyond which a conversation is too long; None takes any.
        delay: Seconds between pieces.
        slow: Seconds before a reply starts.
    """

    path = "/v1"

    def __init__(self, replies: dict[str, list[str | Said]] | None = None) -> None:
        super().__init__()
        self.replies: dict[str, list[str | Said]] = replies or {"*": ["Hello from the server."]}
        self.faults: list[Fault] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.key: str | None = None
        self.models: set[str] | None = None
        self.usage: dict[str, Any] | None = dict(USAGE)
        self.stream = True
        self.done = True
        self.refuse_stream_options = False
        self.refuse_formats = False
        self.window: int | None = None
        self.delay = 0.0
        self.slow = 0.0
        self._played: dict[str, int] = {}
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Start each role's replies anew."""
        self._played.clear()

    def take_fault(self) -> Fault | None:
        """Return the fault of the next request."""
        with self._lock:
            return self.faults.pop(0) if self.faults else None

    def reply_to(self, body: dict[str, Any]) -> Said:
        """Return the next reply of the role that a request's system prompt names."""
        messages = body.get("messages", ())
        system = next((m["content"] for m in messages if m["role"] == "system"), body.get("instructions", ""))
        match = re.match(r"You are the (\w+)\.", system)
        role = match[1] if match and match[1] in self.replies else "*"
        with self._lock:
            number = self._played.get(role, 0)
            self._played[role] = number + 1
        replies = self.replies.get(role, [""])
        reply = replies[min(number, len(replies) - 1)]
        return Said(reply) if isinstance(reply, str) else reply


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Stay quiet."""

    def do_GET(self) -> None:
        self._json(404, error_body("Not found"))

    def do_POST(self) -> None:
        owner: OpenAIServer = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        owner.times.append(time.monotonic())
        owner.headers.append({name.lower(): value for name, value in self.headers.items()})
        owner.requests.append(body)
        fault = owner.take_fault()
        if self.path not in ("/v1/chat/completions", "/v1/responses"):
            self._raw(404, "text/html", b"<html>404</html>", {})
        elif fault is not None:
            self._fail(fault, body)
        elif owner.key is not None and self.headers.get("Authorization") != f"Bearer {owner.key}":
            key = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            self._json(401, error_body(f"Incorrect API key provided: {key}.", "invalid_api_key"))
        elif owner.models is not None and body["model"] not in owner.models:
            self._json(404, error_body(f"The model `{body['model']}` does not exist", "model_not_found"))
        elif owner.refuse_stream_options and "stream_options" in body:
            self._json(400, error_body("Unrecognized request argument supplied: stream_options"))
        elif owner.refuse_formats and ("response_format" in body or "text" in body):
            self._json(400, error_body("Invalid parameter: json_schema is not supported with this model."))
        elif owner.window is not None and _length(body) > owner.window:
            self._json(400, error_body("Your input exceeds the context window of this model."))
        elif self.path == "/v1/responses":
            self._responses(body, owner.reply_to(body))
        elif body.get("stream") and owner.stream:
            owner.closing.wait(owner.slow)
            self._stream(body, owner.reply_to(body))
        else:
            self._whole(body, owner.reply_to(body))

    def _fail(self, fault: Fault, body: dict[str, Any]) -> None:
        owner: OpenAIServer = self.server.owner
        if fault.kind == "status":
            self._json(fault.status, fault.body or error_body("It failed."), fault.headers)
        elif fault.kind == "raw":
            kind = fault.headers.get("Content-Type", "text/event-stream")
            self._raw(200, kind, str(fault.body).encode(), {})
        elif fault.kind == "silent":
            self._until_client_leaves()
        elif fault.kind == "garbage":
            self._begin()
            self._event('{"choices": [{"delta": {"content": "ab')
            self._end()
        elif fault.kind == "error_event":
            self._begin()
            self._event(json.dumps(_chunk(body, {"content": "par"})))
            self._event(json.dumps(fault.body))
            self._end()
        elif fault.kind == "drop_usage":
            self._begin()
            self._event(json.dumps(_chunk(body, {"content": owner.reply_to(body).text})))
            self._event(json.dumps(_chunk(body, {}, "stop")))
            self._reset()
        else:
            self._begin()
            for number in range(fault.pieces):
                self._event(json.dumps(_chunk(body, {"content": f"lost{number} "})))
            if fault.kind == "drop":
                self._reset()
            elif fault.kind == "stall":
                self._until_client_leaves()
            else:
                self._end()

    def _stream(self, body: dict[str, Any], said: Said) -> None:
        owner: OpenAIServer = self.server.owner
        self._begin()
        self._event(json.dumps(_chunk(body, {"role": "assistant", "content": ""})))
        for piece in _pieces(said.text):
            self._event(json.dumps(_chunk(body, {"content": piece}), ensure_ascii=False))
            owner.closing.wait(owner.delay)
        for piece in _pieces(said.refusal):
            self._event(json.dumps(_chunk(body, {"refusal": piece})))
        for index, (call_id, name, arguments) in enumerate(said.calls):
            start = {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
            self._event(json.dumps(_chunk(body, {"tool_calls": [start]})))
            for piece in _pieces(arguments):
                more = {"index": index, "function": {"arguments": piece}}
                self._event(json.dumps(_chunk(body, {"tool_calls": [more]})))
        finish = "tool_calls" if said.calls and said.finish == "stop" else said.finish
        self._event(json.dumps(_chunk(body, {}, finish)))
        if owner.usage is not None and body.get("stream_options", {}).get("include_usage"):
            self._event(json.dumps({**_chunk(body, {}), "choices": [], "usage": owner.usage}))
        if owner.done:
            self._event("[DONE]")
        self._end()

    def _whole(self, body: dict[str, Any], said: Said) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": said.text}
        if said.refusal:
            message["refusal"] = said.refusal
        if said.calls:
            message["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
                for call_id, name, arguments in said.calls
            ]
        choice = {"index": 0, "message": message, "finish_reason": said.finish}
        answer = {"id": "c1", "object": "chat.completion", "created": 1, "model": body["model"]}
        self._json(200, {**answer, "choices": [choice], "usage": self.server.owner.usage})

    def _responses(self, body: dict[str, Any], said: Said) -> None:
        """Answer as `/v1/responses` does; names and order of the events as in `openai.types.responses`."""
        response = _response(body, said, self.server.owner.usage)
        if not body.get("stream") or not self.server.owner.stream:
            self._json(200, response)
            return
        self._begin()
        numbers = iter(range(10**9))

        def send(kind: str, **fields: Any) -> None:
            data = json.dumps({"type": kind, "sequence_number": next(numbers), **fields}, ensure_ascii=False)
            self._event(data, kind)

        unfinished = {**response, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
        send("response.created", response=unfinished)
        send("response.in_progress", response=unfinished)
        for index, item in enumerate(response["output"]):
            place = {"item_id": item["id"], "output_index": index}
            send("response.output_item.added", output_index=index, item={**item, "status": "in_progress"})
            for number, part in enumerate(item.get("content", ())):
                kind = part["type"].removeprefix("output_")
                name = "refusal" if kind == "refusal" else "output_text"
                for piece in _pieces(part[kind]):
                    send(f"response.{name}.delta", **place, content_index=number, delta=piece)
                    self.server.owner.closing.wait(self.server.owner.delay)
                send(f"response.{name}.done", **place, content_index=number, **{kind: part[kind]})
            if item["type"] == "function_call":
                for piece in _pieces(item["arguments"]):
                    send("response.function_call_arguments.delta", **place, delta=piece)
            send("response.output_item.done", output_index=index, item=item)
        send(f"response.{response['status']}", response=response)
        self._end()

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _event(self, data: str, kind: str = "") -> None:
        frame = f"{f'event: {kind}{chr(10)}' if kind else ''}data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(frame), frame))
        self.wfile.flush()

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)  # closing then sends RST
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _until_client_leaves(self) -> None:
        self.connection.settimeout(0.02)
        while not self.server.owner.closing.is_set():
            try:
                if not self.connection.recv(1024):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        self.close_connection = True

    def _json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self._raw(status, "application/json", json.dumps(body).encode(), headers or {})

    def _raw(self, status: int, kind: str, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _chunk(body: dict[str, Any], delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": body["model"],
        "choices": [choice],
    }


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*|\s+", text)


def _length(body: dict[str, Any]) -> int:
    return len(json.dumps(body.get("messages") or [body.get("instructions"), body.get("input")]))


def _response(body: dict[str, Any], said: Said, usage: dict[str, Any] | None) -> dict[str, Any]:
    """Return a `Response` object (`openai.types.responses.Response`)."""
    output: list[dict[str, Any]] = [{"type": "reasoning", "id": "rs_1", "summary": []}]
    parts: list[dict[str, Any]] = []
    if said.text:
        parts.append({"type": "output_text", "text": said.text, "annotations": []})
    if said.refusal:
        parts.append({"type": "refusal", "refusal": said.refusal})
    if parts:
        message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": parts}
        output.append(message)
    for number, (call_id, name, arguments) in enumerate(said.calls):
        call = {"call_id": call_id, "name": name, "arguments": arguments, "status": "completed"}
        output.append({"type": "function_call", "id": f"fc_{number}", **call})
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(said.finish)
    counted = usage and {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
        "input_tokens_details": usage["prompt_tokens_details"],
        "output_tokens_details": usage["completion_tokens_details"],
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": body["model"],
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "error": None,
        "output": output,
        "usage": counted,
    }


OpenAIServer.handler = _Handler
