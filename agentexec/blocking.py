"""Coroutine functions for programs without an event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from sandboxes.interrupts import Interrupts

P = ParamSpec("P")
T = TypeVar("T")


def blocking(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Return a blocking version of a coroutine function, with the same arguments."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise RuntimeError("an event loop is running here: write 'await solve(...)' instead of 'solve_sync(...)'")
        # Here, lest what it raises be said to have come while handling.
        with Interrupts() as interrupts, asyncio.Runner() as runner:
            return interrupts.wait(runner, function(*args, **kwargs))

    return wrapper
