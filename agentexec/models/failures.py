"""Why a model call failed: foreign errors become ours here, and nowhere else."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from agentexec.errors import (
    ModelAuthError,
    ModelContextOverflow,
    ModelDeclined,
    ModelError,
    ModelNotFound,
    ModelRateLimited,
    ModelRefused,
    ModelStreamBroken,
    ModelUnreachable,
)

_OVERFLOW = re.compile(
    r"context.{0,10}(length|window|size)|too many (input )?tokens|(prompt|input) is too long", re.IGNORECASE
)
_NO_MODEL = re.compile(
    r"model.{0,80}(not found|does ?n[o']t exist|not exist)|(invalid|unknown|no such) model",
    re.IGNORECASE | re.DOTALL,
)
_POLICY = frozenset(
    {"content_filter", "content_policy_violation", "invalid_prompt", "misalignment_policy_violation", "bio_policy"}
)
"""Codes of requests that a filter refused: Azure's, and those of `openai.types.responses.ResponseError`."""
_SHOWN = 400


class Failure(Exception):
    """A call failed.

    Args:
        error: What callers see of it.
        retry: Whether another attempt may help.
        after: Seconds the server asked to wait, or None.
    """

    def __init__(self, error: ModelError, *, retry: bool = False, after: float | None = None) -> None:
        super().__init__(str(error))
        error.retryable, error.retry_after = retry, after
        self.error = error


@dataclass(frozen=True, slots=True)
class Call:
    """What was called, for messages.

    Attributes:
        model: The model's name.
        server: The server's address.
        key: The key that was sent; never shown, and masked where a server repeats it.
        protocol: What was spoken.
    """

    model: str
    server: str
    key: str = ""
    protocol: str = "chat-completions"

    @property
    def shown(self) -> str:
        """The address without user name, password or query."""
        parts = urlsplit(self.server)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))

    def quote(self, text: object) -> str:
        """Return what a server said in one bounded line without the key and without control characters."""
        line = " ".join(str(text).split())
        if len(self.key) >= 8:
            line = line.replace(self.key, "***")
        line = "".join(char if char.isprintable() else "?" for char in line)
        return line if len(line) <= _SHOWN else line[:_SHOWN] + "…"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait (RFC 9110, 10.2.3), or None."""
    milliseconds = headers.get("retry-after-ms")
    text = headers.get("retry-after")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        if text is not None:
            return max(0.0, float(text))
    except ValueError:
        pass
    if text is None:
        return None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def unreachable(call: Call, why: object) -> Failure:
    """No connection, or no answer in time."""
    return Failure(
        ModelUnreachable(
            f"cannot reach the model server at {call.shown}: {call.quote(why)}; "
            "check OPENAI_BASE_URL and that the server runs"
        ),
        retry=True,
    )


def broken(call: Call, why: object, *, retry: bool = True) -> Failure:
    """The reply broke off, or was not a reply."""
    return Failure(ModelStreamBroken(f"the reply from {call.shown} broke off: {call.quote(why)}"), retry=retry)


def not_an_api(call: Call) -> Failure:
    """The address answers, but not as a model server."""
    return Failure(
        ModelRefused(
            f"{call.shown} does not speak the {call.protocol} protocol; check OPENAI_BASE_URL (it usually ends in /v1)"
        )
    )


def refused(call: Call, status: int, body: object, headers: Mapping[str, str]) -> Failure:
    """The server answered with an HTTP error status.

    Args:
        call: What was called.
        status: The HTTP status; 0 for an error that came inside a stream.
        body: The decoded JSON body, or text.
        headers: The response's headers.
    """
    code, message = read_body(body)
    said = call.quote(message) or f"HTTP status {status}"
    if code == "context_length_exceeded" or (status not in (401, 403, 429) and _OVERFLOW.search(message)):
        return Failure(
            ModelContextOverflow(
                f"the conversation no longer fits {call.model!r}: {said}; "
                "use a model with a larger window, or a shorter task"
            )
        )
    if code in _POLICY:
        return Failure(ModelDeclined(f"{call.shown} declined to answer ({code}): {said}"))
    if status in (401, 403) or code == "invalid_api_key":
        hint = "check OPENAI_API_KEY" if call.key else "set OPENAI_API_KEY"
        return Failure(ModelAuthError(f"{call.shown} refuses the key ({status}): {said}; {hint}"))
    if code == "model_not_found" or (status in (400, 404, 422, 0) and _NO_MODEL.search(message)):
        return Failure(
            ModelNotFound(
                f"{call.shown} does not know the model {call.model!r}: {said}; name another with -m or AGENTEXEC_MODEL"
            )
        )
    if status in (404, 405):
        return not_an_api(call)
    if status == 429 or code in ("rate_limit_exceeded", "insufficient_quota"):
        error = ModelRateLimited(f"{call.shown} limits the rate of requests: {said}")
        return Failure(error, retry=code != "insufficient_quota", after=retry_after(headers))
    again = status in (0, 408, 409, 425) or status >= 500
    what = "the server failed" if again else "the server refused the request"
    where = f"{status}" if status else "inside the reply"
    return Failure(ModelRefused(f"{what} ({where}, {call.shown}): {said}"), retry=again, after=retry_after(headers))


def read_body(body: object) -> tuple[str, str]:
    """Return an error body's code and message, in the shapes that servers use."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    if isinstance(error, Mapping):
        code = error.get("code") or error.get("type") or ""
        message = error.get("message") or error.get("detail") or error.get("error") or ""
        return str(code), str(message)
    return "", "" if error is None else str(error)
