"""Models behind any server that speaks OpenAI's chat-completions protocol."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentexec.errors import ModelAuthError, ModelRateLimited, SettingsError
from agentexec.models.base import ChatMessage, Completion, Model, ModelRetry, OnRetry, OnText
from agentexec.models.failures import Call, Failure, broken, not_an_api, read_body, refused, unreachable
from agentexec.models.prices import cost_of
from agentexec.models.reply import Reply
from agentexec.models.sight import Images, Sight, body_of
from agentexec.models.sse import EventReader
from agentexec.pictures import Picture

if TYPE_CHECKING:
    from openai import AsyncOpenAI

OPENAI_URL = "https://api.openai.com/v1"
_TAIL_SECONDS = 5.0
"""How long to wait for the usage that follows a finished text."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how soon a failed call is tried again.

    Attributes:
        attempts: Calls in all; 1 tries nothing again.
        first_delay: Seconds before the second attempt; doubled for each further one, with jitter.
        longest_delay: Seconds at which the doubling ends.
        longest_wait: Seconds of a server's Retry-After that are waited; a longer one ends the call.
    """

    attempts: int = 5
    first_delay: float = 0.5
    longest_delay: float = 30.0
    longest_wait: float = 60.0

    def delay(self, attempt: int, after: float | None) -> float | None:
        """Return the seconds to wait after a failed attempt (from 1), or None to give up."""
        if attempt >= self.attempts or (after is not None and after > self.longest_wait):
            return None
        # Jitter keeps many clients from coming back at the same moment; never before the server's word.
        backoff = min(self.first_delay * 2 ** (attempt - 1), self.longest_delay)
        return after * random.uniform(1.0, 1.1) if after is not None else backoff * random.uniform(0.75, 1.25)  # noqa: S311


class OpenAIModel(Model):
    """A model of an OpenAI-compatible server, by streaming chat completions.

    Args:
        name: The model, as the server calls it.
        base_url: The server's address, usually ending in `/v1`; None takes `OPENAI_BASE_URL`, then OpenAI's.
        api_key: None takes `OPENAI_API_KEY`. Servers other than OpenAI's may need none.
        timeout: Seconds the server may stay silent, before its answer and inside it.
        connect_timeout: Seconds a connection may take.
        retries: What happens when a call fails; a reply that breaks off half way is tried again too.
        images: Whether pictures are sent: `auto` sends them until the server refuses, `off` never does.

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
        self._call = Call(name, server, key)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._retries = retries or Retries()
        self._sight = Sight(images)
        self._features: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        self._client: AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r}, base_url={self._call.shown!r})"

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
    ) -> Completion:
        """Answer a conversation; see `Model.complete`."""
        attempt = 1
        while True:
            try:
                return await self._attempt(messages, on_text)
            except Failure as failure:
                delay = self._retries.delay(attempt, failure.after) if failure.retry else None
                if delay is None:
                    raise _final(failure, attempt) from failure.__cause__
                reason = str(failure)
            if on_retry is not None:
                on_retry(ModelRetry(attempt, delay, reason))
            await asyncio.sleep(delay)
            attempt += 1

    async def close(self) -> None:
        """Release connections. Closing twice has no effect."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    async def _attempt(self, messages: Sequence[ChatMessage], on_text: OnText | None) -> Completion:
        openai, client = await self._connect()
        pictures = self._sight.choose(messages)
        body: Any = body_of(messages, pictures)
        reply = Reply(self._call, on_text)
        create = client.chat.completions.with_streaming_response.create
        try:
            async with create(model=self.name, messages=body, **self._features) as response:
                await self._read(response, reply)
        except openai.APIStatusError as error:
            if self._give_up(error.status_code, error.body, pictures):
                return await self._attempt(messages, on_text)
            raise refused(self._call, error.status_code, error.body, error.response.headers) from error
        except openai.APITimeoutError as error:
            raise unreachable(self._call, f"no answer within {self._timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise unreachable(self._call, error.__cause__ or error) from error
        answer = reply.completion()
        return reply.completion(cost_of(answer.model, answer.usage, base_url=self._call.server))

    def _give_up(self, status: int, body: object, pictures: Sequence[Picture]) -> bool:
        """Do without what an older or a blind server refuses; return whether that may help."""
        for feature in ("stream_options", "stream"):
            if status in (400, 422) and feature in str(body) and feature in self._features:
                del self._features[feature]
                return True
        return self._sight.refused(status, read_body(body)[1], pictures)

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
            if kind == "application/json" or "stream" not in self._features:
                body = bytearray()
                while (chunk := await self._next(chunks, reply)) is not None:
                    body += chunk
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
    import openai.resources.chat  # the client would import it at the first call, in the loop

    return openai


def _final(failure: Failure, attempts: int) -> Exception:
    error = failure.error
    notes = [f"tried {attempts} times"] if attempts > 1 else []
    if failure.after is not None and isinstance(error, ModelRateLimited):
        notes.append(f"the server asks to wait {failure.after:.0f} s")
    return type(error)(f"{error} ({', '.join(notes)})") if notes else error
