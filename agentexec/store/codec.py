"""Events as JSON text, and back. What an older or a newer version wrote stays readable."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from agentexec.errors import StoreDamaged
from agentexec.events import AnyEvent, Event

MASK = "***"
SHORTEST_SECRET = 6
"""Characters: a shorter key (servers without keys take `x`) would mask half of every text."""

_events: TypeAdapter[Event] = TypeAdapter(AnyEvent)


class UnknownEvent(Event):
    """An event of a type that this version does not know, as a newer one wrote it.

    Attributes:
        type: Always `unknown`.
        name: The type it has there.
        data: All of it.
    """

    type: Literal["unknown"] = "unknown"
    name: str
    data: dict[str, Any]


def write_event(event: Event, secrets: Iterable[str] = ()) -> str:
    """Return an event as one line of JSON, with secrets masked.

    Lone surrogates, which JSON from a server may hold and UTF-8 cannot, become replacement characters.
    """
    try:
        text = event.model_dump_json()
    except ValueError:  # lone surrogates
        text = None
    marks = [secret for secret in secrets if len(secret) >= SHORTEST_SECRET]
    if text is not None and not any(_in_json(mark) in text for mark in marks):
        return text
    kind = type(event)
    fields = {name: value for name, value in event.model_dump().items() if name != "type"}
    try:
        return kind.model_validate({name: _clean(value, marks) for name, value in fields.items()}).model_dump_json()
    except ValidationError:  # a "secret" that is also the name of a field
        values = {name: _clean(value, marks, keys=False) for name, value in fields.items()}
        return kind.model_validate(values).model_dump_json()


def read_event(text: str) -> Event:
    """Return the event that `write_event` wrote, in this version of the package or another.

    Fields that this version does not know are left out; an unknown type is an `UnknownEvent`.

    Raises:
        StoreDamaged: it is no event at all.
    """
    try:
        return _events.validate_json(text, extra="ignore")
    except ValidationError as error:
        return _unknown(text, error)


def _unknown(text: str, error: ValidationError) -> Event:
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    first = error.errors()[0]
    if isinstance(data, dict) and first["type"] == "union_tag_invalid":
        return UnknownEvent(name=str(data.get("type")), data=data, time=float(data.get("time") or 0))
    where = ".".join(map(str, first["loc"]))
    raise StoreDamaged(f"an event cannot be read: {where or 'text'}: {first['msg']}: {text[:80]!r}") from error


def mask(text: str, secrets: Iterable[str]) -> str:
    """Return a JSON text without secrets."""
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(_in_json(secret), MASK)
    return text


def _in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _clean(value: Any, secrets: list[str], *, keys: bool = True) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
        return value.encode("utf-8", "replace").decode() if _has_surrogates(value) else value
    if isinstance(value, dict):
        return {_clean(key, secrets) if keys else key: _clean(item, secrets, keys=keys) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item, secrets, keys=keys) for item in value]
    return value


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
