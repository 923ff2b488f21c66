"""What all test classes of the kit have in common."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sandboxes.conformance.arena import Arena
from sandboxes.conformance.backend import Backend, claims
from sandboxes.types import Limits

_Test = Callable[..., Coroutine[Any, Any, None]]


class Suite:
    """Tests of one backend. Coroutines are run by asyncio, each in a loop of its own and within a time of its own.

    A class that derives from it has the fixture `backend`, and tests of its own if it likes.
    """

    _seen: ClassVar[dict[str, frozenset[str]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._seen = {}
        for name, function in list(vars(cls).items()):
            if name.startswith("test_") and inspect.iscoroutinefunction(function):
                setattr(cls, name, _plain(function))

    @pytest.fixture
    def arena(self, backend: object, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Arena]:
        """A place around the backend, and everything that has to hold afterwards."""
        if not isinstance(backend, Backend):
            word = "the fixture `backend` returns a sandboxes.conformance.Backend, such as Backend(MyExecutor)"
            pytest.fail(f"{word}; this is {backend!r}", pytrace=False)
        for name in (request.node.name, request.node.originalname):
            if reason := backend.exceptions.get(name):
                request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
                break
        if backend.name not in self._seen:
            self._seen[backend.name] = asyncio.run(asyncio.wait_for(_ask(backend), backend.patience))
        arena = self.make_arena(backend, tmp_path, self._seen[backend.name])
        self.prepare(arena)
        yield arena
        arena.canaries.close()
        self.clean_up(arena)

    def make_arena(self, backend: Backend, directory: Path, claims: frozenset[str]) -> Arena:
        """Return what the tests work with: an `Arena` of one's own may check more."""
        return Arena(backend, directory, claims)

    def prepare(self, arena: Arena) -> None:
        """Do what a workspace needs before it is used, e.g. give it to another user."""

    def clean_up(self, arena: Arena) -> None:
        """Take away what pytest cannot remove, e.g. files of another user."""


async def _ask(backend: Backend) -> frozenset[str]:
    """Return what a backend claims. Also loads what is loaded with the first executor, before anything is counted."""
    async with backend.open(Limits(), None) as executor:
        return claims(executor.isolation)


def _plain(test: _Test) -> Callable[..., None]:
    """Return a test that pytest can call as it is."""

    @functools.wraps(test)
    def call(self: Suite, *args: Any, **kwargs: Any) -> None:
        arena = kwargs.get("arena")
        patience = arena.backend.patience if isinstance(arena, Arena) else 60.0
        asyncio.run(asyncio.wait_for(test(self, *args, **kwargs), patience))

    return call
