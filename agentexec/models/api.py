"""The two protocols of OpenAI-compatible servers: how each words a request, and how its reply is read."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agentexec.models.base import CallOptions, ChatMessage, OnText, Tool, ToolCall
from agentexec.models.failures import Call, not_an_api, refused
from agentexec.models.reply import CallCollector, Reply, text_of

ApiName = Literal["chat", "responses"]
Body = Sequence[Mapping[str, Any]]
"""Messages as chat completions has them, with text and pictures, one for each `ChatMessage`."""


class Api(abc.ABC):
    """A protocol, and what of it a server turned out not to know.

    Attributes:
        features: What is asked for until the server refuses it, in the order in which it is given up.
    """

    features: dict[str, tuple[str, ...]]
    """Feature to the words by which a refusal of it is known."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.features = dict(self.features)

    def give_up(self, status: int, said: str) -> bool:
        """Do without what a server refuses; return whether that may help."""
        for feature, words in self.features.items():
            if status in (400, 422) and any(word in said for word in words):
                del self.features[feature]
                return True
        return False

    @abc.abstractmethod
    def create(self, client: Any) -> Any:
        """Return the client's function that sends a request and gives the response while it comes."""

    @abc.abstractmethod
    def request(self, messages: Sequence[ChatMessage], body: Body, options: CallOptions) -> dict[str, Any]:
        """Return the fields of a request, but for the model."""

    @abc.abstractmethod
    def reply(self, on_text: OnText | None) -> Reply:
        """Return what reads the reply."""


class ChatApi(Api):
    """Chat completions, which every server speaks."""

    features = {  # noqa: RUF012 - copied for each object
        "stream_options": ("stream_options",),
        "format": ("response_format", "json_schema"),
        "stream": ("stream",),
    }

    def create(self, client: Any) -> Any:
        return client.chat.completions.with_streaming_response.create

    def request(self, messages: Sequence[ChatMessage], body: Body, options: CallOptions) -> dict[str, Any]:
        fields: dict[str, Any] = {"messages": list(map(_chat_message, messages, body))}
        if "stream" in self.features:
            fields["stream"] = True
            if "stream_options" in self.features:
                fields["stream_options"] = {"include_usage": True}
        if options.format is not None and "format" in self.features:
            wanted = {"name": options.format.name, "schema": options.format.schema, "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": wanted}
        if options.tools:
            fields["tools"] = [{"type": "function", "function": _function(tool)} for tool in options.tools]
        return fields

    def reply(self, on_text: OnText | None) -> Reply:
        return _ChatReply(self._call, on_text)


def _chat_message(message: ChatMessage, written: Mapping[str, Any]) -> dict[str, Any]:
    fields = dict(written)
    if message.calls:
        fields["content"] = fields["content"] or None
        fields["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
    if message.role == "tool":
        fields["tool_call_id"] = message.call_id
    return fields


def _function(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters}


class _ChatReply(Reply):
    def __init__(self, call: Call, on_text: OnText | None) -> None:
        super().__init__(call, on_text)
        self._collector = CallCollector()

    @property
    def _calls(self) -> tuple[ToolCall, ...]:
        return self._collector.calls

    def _take(self, value: Mapping[str, Any], *, whole: bool) -> None:
        if value.get("error"):
            raise refused(self._call, 0, value, {})
        choices = value.get("choices")
        if choices is None and whole:
            raise not_an_api(self._call)
        self._common(value)
        if not isinstance(choices, Sequence) or not choices or not isinstance(choices[0], Mapping):
            return
        choice = choices[0]
        if isinstance(choice.get("finish_reason"), str):
            self.finish_reason = choice["finish_reason"]
        message = choice.get("message" if whole else "delta")
        if isinstance(message, Mapping):
            self._add(text_of(message.get("content")))
            self._add(text_of(message.get("refusal")), refusal=True)
            self._take_calls(message.get("tool_calls"))

    def _take_calls(self, calls: object) -> None:
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, Mapping) else None
            if isinstance(function, Mapping):
                name, arguments = function.get("name"), function.get("arguments")
                self._grow(self._collector.add(call.get("index"), call.get("id"), name, arguments))


class ResponsesApi(Api):
    """OpenAI's Responses. Nothing is left at the server (`store` is false): each request holds everything."""

    features = {  # noqa: RUF012 - copied for each object
        "format": ("text.format", "json_schema"),
        "store": ("store",),
        "stream": ("stream",),
    }

    def create(self, client: Any) -> Any:
        return client.responses.with_streaming_response.create

    def request(self, messages: Sequence[ChatMessage], body: Body, options: CallOptions) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        items: list[dict[str, Any]] = []
        for message, written in zip(messages, body, strict=True):
            if message.role == "system" and not items and "instructions" not in fields:
                fields["instructions"] = message.content
            else:
                items += _items(message, written["content"])
        fields["input"] = items
        if "store" in self.features:
            fields["store"] = False
        if "stream" in self.features:
            fields["stream"] = True
        if options.format is not None and "format" in self.features:
            wanted = {"name": options.format.name, "schema": options.format.schema, "strict": True}
            fields["text"] = {"format": {"type": "json_schema", **wanted}}
        if options.tools:
            # Not `strict`, which would insist on every parameter.
            fields["tools"] = [{"type": "function", "strict": False, **_function(tool)} for tool in options.tools]
        return fields

    def reply(self, on_text: OnText | None) -> Reply:
        return _ResponsesReply(self._call, on_text)


def _items(message: ChatMessage, content: object) -> list[dict[str, Any]]:
    """Return a message as items of a Responses input."""
    if message.role == "tool":
        return [{"type": "function_call_output", "call_id": message.call_id, "output": text_of(content)}]
    items: list[dict[str, Any]] = []
    if content or not message.calls:
        parts = [_part(part) for part in content] if isinstance(content, list) else content
        items.append({"role": message.role, "content": parts})
    for call in message.calls:
        made = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
        items.append({"type": "function_call", **made})
    return items


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "image_url":
        return {"type": "input_image", "image_url": part["image_url"]["url"], "detail": "auto"}
    return {"type": "input_text", "text": part["text"]}


class _ResponsesReply(Reply):
    """Reads events by their `type`; those that are not needed, or not known, are passed over."""

    def __init__(self, call: Call, on_text: OnText | None) -> None:
        super().__init__(call, on_text)
        self._collector = CallCollector()
        self._item: object = None

    @property
    def _calls(self) -> tuple[ToolCall, ...]:
        return self._collector.calls

    def _take(self, value: Mapping[str, Any], *, whole: bool) -> None:
        if whole:
            self._end(value)
            return
        kind, response = value.get("type"), value.get("response")
        if kind == "error" or (kind is None and value.get("error")):
            raise refused(self._call, 0, value, {})
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            item = value.get("item_id", value.get("output_index"))
            if self._item not in (None, item) and text_of(value.get("delta")):
                self._add("\n\n")  # another message of the same reply
            self._item = item
            self._add(text_of(value.get("delta")), refusal=kind == "response.refusal.delta")
        elif kind == "response.output_item.done":
            self._take_call(value.get("item"))
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            self._end(response if isinstance(response, Mapping) else {})

    def _end(self, response: Mapping[str, Any]) -> None:
        """Take the whole response, of which a stream has brought the text already."""
        if response.get("error"):
            raise refused(self._call, 0, response, {})
        self._common(response)
        output = response.get("output")
        if "status" not in response and not isinstance(output, list):
            raise not_an_api(self._call)
        if not self._pieces and not self._calls:
            for item in output if isinstance(output, list) else ():
                self._take_item(item)
        if response.get("status") == "failed":
            raise refused(self._call, 0, {"message": "the response failed"}, {})
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, Mapping) else None
        if reason is not None or response.get("status") == "incomplete":
            self.finish_reason = "length" if reason == "max_output_tokens" else str(reason or "incomplete")
        else:
            self.finish_reason = "tool_calls" if self._calls else "stop"
        self.done = True

    def _take_item(self, item: object) -> None:
        self._take_call(item)
        content = item.get("content") if isinstance(item, Mapping) and item.get("type") == "message" else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping):
                self._add(text_of(part.get("text")))
                self._add(text_of(part.get("refusal")), refusal=True)

    def _take_call(self, item: object) -> None:
        if isinstance(item, Mapping) and item.get("type") == "function_call":
            call_id = item.get("call_id") or item.get("id")
            # Whole calls, so each is a new one.
            self._grow(self._collector.add(len(self._calls), call_id, item.get("name"), item.get("arguments")))
