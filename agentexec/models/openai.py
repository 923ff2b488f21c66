"""Models behind any server that speaks OpenAI's protocols: chat completions, or Responses."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentexec.errors import ModelAuthError, SettingsError
from agentexec.models.api import Api, ApiName, ChatApi, ResponsesApi
from agentexec.models.base import CallOptions, ChatMessage, Completion, Feature, Model, OnRetry, OnText
from agentexec.models.failures import Call, Failure, broken, not_an_api, read_body, refused, unreachable
from agentexec.models.prices import cost_of, window_of
from agentexec.models.reply import Reply
from agentexec.models.retries import Retries as Retries
from agentexec.models.retries import with_retries
from agentexec.models.sight import Images, Sight, body_of
from agentexec.models.sse import MAX_EVENT_BYTES, EventReader

if TYPE_CHECKING:
    from openai import AsyncOpenAI

OPENAI_URL = "https://api.openai.com/v1"
_TAIL_SECONDS = 5.0
"""How long to wait for the usage that follows a finished text."""


class OpenAIModel(Model):
    """A model of an OpenAI-compatible server, by streaming chat completions or Responses.

    Args:
        name: The model, as the server calls it.
        base_url: The server's address, usually ending in `/v1`; None takes `OPENAI_BASE_URL`, then OpenAI's.
        api_key: None takes `OPENAI_API_KEY`. Servers other than OpenAI's may need none.
        timeout: Seconds the server may stay silent, before its answer and inside it.
        connect_timeout: Seconds a connection may take.
        retries: What happens when a call fails; a reply that breaks off half way is tried again too.
        images: Whether pictures are sent: `auto` sends them until the server refuses, `off` never does.
        api: The protocol: `chat` for chat completions, which every server speaks, or `responses`.
        parameters: Further fields of each request, such as `temperature`, `reasoning_effort` or `max_tokens`.
        context_window: Tokens of request and reply together; None takes what the price list says.

    Raises:
        SettingsError: the name is empty or the address is not one.
        ModelAuthError: OpenAI's own server needs a key and there is none.
    """

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 300.0,
        connect_timeout: float = 10.0,
        retries: Retries | None = None,
        images: Images = "auto",
        api: ApiName = "chat",
        parameters: Mapping[str, Any] | None = None,
        context_window: int | None = None,
    ) -> None:
        if not name.strip():
            raise SettingsError("the model's name is empty; set AGENTEXEC_MODEL, or give -m")
        self.name = name
        server = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        if not server.startswith(("http://", "https://")):
            raise SettingsError(f"OPENAI_BASE_URL must start with http:// or https://, not {server[:80]!r}")
        key = api_key or os.environ.get("OPENAI_API_KEY") or ""
        if not key and server.rstrip("/") == OPENAI_URL:
            raise ModelAuthError(
                "no API key: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own that needs none"
            )
        if context_window is not None and context_window <= 0:
            raise SettingsError(f"context_window must be more than 0, not {context_window}")
        self._call = Call(name, server, key, protocol="chat-completions" if api == "chat" else "Responses")
        self._api: Api = ChatApi(self._call) if api == "chat" else ResponsesApi(self._call)
        self._api_name = api
        self._parameters = dict(parameters or {})
        self._window = context_window
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._retries = retries or Retries()
        self._images, self._sight = images, Sight(images)
        self._client: AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r}, base_url={self._call.shown!r})"

    @property
    def supports(self) -> frozenset[Feature]:
        """Tools and formats; a server that refuses formats is asked without."""
        return frozenset({"format", "tools"})

    @property
    def context_window(self) -> int | None:
        """As given, else as the price list has it for this server or this model."""
        return self._window or _window_of(self.name, self._call.server)

    @property
    def identity(self) -> str:
        parameters = json.dumps(self._parameters, sort_keys=True, default=repr)
        return f"openai:{self._api_name}:{self._call.shown}:{self.name}:images={self._images}:{parameters}"

    @property
    def secrets(self) -> Sequence[str]:
        return (self._call.key,) if self._call.key else ()

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        """Answer a conversation; see `Model.complete`."""

        async def attempt() -> Completion:
            try:
                return await self._attempt(messages, on_text, options or CallOptions())
            except Failure as failure:
                raise failure.error from failure.__cause__

        return await with_retries(attempt, self._retries, on_retry)

    async def close(self) -> None:
        """Release connections. Closing twice has no effect."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    async def _attempt(
        self, messages: Sequence[ChatMessage], on_text: OnText | None, options: CallOptions
    ) -> Completion:
        openai, client = await self._connect()
        pictures = self._sight.choose(messages)
        reply = self._api.reply(on_text)
        fields = self._api.request(messages, body_of(messages, pictures), options)
        try:
            create = self._api.create(client)
            async with create(model=self.name, extra_body=self._parameters or None, **fields) as response:
                await self._read(response, reply)
        except openai.APIStatusError as error:
            said = str(error.body)
            if self._api.give_up(error.status_code, said) or self._sight.refused(
                error.status_code, read_body(error.body)[1], pictures
            ):
                return await self._attempt(messages, on_text, options)
            raise refused(self._call, error.status_code, error.body, error.response.headers) from error
        except openai.APITimeoutError as error:
            raise unreachable(self._call, f"no answer within {self._timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise unreachable(self._call, error.__cause__ or error) from error
        answer = reply.completion()
        return reply.completion(cost_of(answer.model, answer.usage, base_url=self._call.server))

    async def _connect(self) -> tuple[Any, AsyncOpenAI]:
        # Half a second of imports: in a thread, so that the loop goes on showing and watching.
        openai = await asyncio.to_thread(_import_openai)
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:  # connections cannot move to another loop
            self._loop = loop
            self._client = openai.AsyncOpenAI(
                api_key=self._call.key or "none",
                base_url=self._call.server,
                max_retries=0,
                timeout=openai.Timeout(self._timeout, connect=self._connect_timeout),
            )
        return openai, self._client

    async def _read(self, response: Any, reply: Reply) -> None:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml"):
            raise not_an_api(self._call)
        async with contextlib.aclosing(response.iter_bytes()) as chunks:
            if kind == "application/json" or "stream" not in self._api.features:
                body = bytearray()
                while (chunk := await self._next(chunks, reply)) is not None:
                    body += chunk
                    if len(body) > MAX_EVENT_BYTES:
                        raise broken(self._call, f"more than {MAX_EVENT_BYTES} bytes", retry=False)
                reply.feed_whole(bytes(body))
            else:
                await self._read_stream(chunks, reply)

    async def _read_stream(self, chunks: AsyncIterator[bytes], reply: Reply) -> None:
        reader = EventReader()
        try:
            while not reply.done and (chunk := await self._next(chunks, reply)) is not None:
                for data in reader.feed(chunk):
                    reply.feed(data)
            for data in reader.finish():
                try:
                    reply.feed(data)
                except Failure:  # what was cut off after the whole text was only its usage
                    if not reply.complete:
                        raise
        except ValueError as error:
            raise broken(self._call, error) from error
        if not reply.complete:
            raise broken(self._call, "it ended before the model said that it was done")

    async def _next(self, chunks: AsyncIterator[bytes], reply: Reply) -> bytes | None:
        """Return the next bytes if they come in time; what breaks after the text was whole is forgiven."""
        patience = min(_TAIL_SECONDS, self._timeout) if reply.complete else self._timeout
        try:
            async with asyncio.timeout(patience):
                return await anext(chunks)
        except StopAsyncIteration:
            return None
        except Exception as error:  # whatever the HTTP library raises in mid-stream means the same
            if reply.complete:
                return None
            silent = isinstance(error, TimeoutError)
            why = f"nothing came for {patience:g} s" if silent else error or type(error).__name__
            raise broken(self._call, why) from error


def _import_openai() -> Any:
    import openai
    import openai.resources.chat  # the client would import them at the first call, in the loop
    import openai.resources.responses

    return openai


@functools.lru_cache(maxsize=64)
def _window_of(name: str, server: str) -> int | None:
    return window_of(name, server)
