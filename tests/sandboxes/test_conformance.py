"""The public kit on every backend, as anybody would run it on theirs."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sandboxes import Executor, FakeExecutor, Limits, conformance
from sandboxes.conformance import Arena, ConformanceTests, Programs
from sandboxes.docker.workspace import NOBODY
from sandboxes.runner.files import remove_tree
from tests.sandboxes.backends import BACKENDS, DOCKER, LOCAL, Backend, descendants, require_engine
from tests.sandboxes.hostile.exceptions import NAMES

LIMITS = frozenset(Limits.model_fields)
ALL = LIMITS | {"filesystem", "system calls", "kill"}
KERNEL = Backend("jupyter", "jupyter", LOCAL.engine, LOCAL.installed, descendants, LOCAL.runner)
KERNEL_DOCKER = Backend(
    "jupyter+docker", "jupyter+docker", DOCKER.engine, DOCKER.installed, DOCKER.processes, DOCKER.runner
)
NONE = Backend("local-none", "local", "Python", lambda: True, descendants)


def lose(backend: Backend, executor: Executor) -> None:
    os.kill(backend.runner(executor), signal.SIGKILL)


def row(backend: Backend, **about: Any) -> conformance.Backend:
    """Return what the kit is told of one of ours."""
    options: dict[str, Any] = {"isolation": "none"} if backend is NONE else {}

    def opened(limits: Limits, workspace: Path | None) -> Executor:
        return backend.open(limits, workspace, **options)

    return conformance.Backend(opened, name=backend.name, lose=functools.partial(lose, backend), **about)


def exceptions(backend: Backend) -> dict[str, str]:
    """Return the named exceptions among the kit's tests."""
    if backend.namespaces:
        return {}
    return {"test_files_of_the_host_are_not_there": NAMES}


def fake(limits: Limits, workspace: Path | None) -> FakeExecutor:
    return FakeExecutor({"hello": "hello\n"}, limits=limits)


REFUSES_NOTHING = "it reports its limits, and does not enforce them"
ROWS = {
    **{
        each.name: row(each, capabilities=ALL, languages=("bash", "sh", "perl"), exceptions=exceptions(each))
        for each in BACKENDS
    },
    **{each.name: row(each, capabilities=ALL, languages=("bash", "sh", "perl")) for each in (KERNEL, KERNEL_DOCKER)},
    NONE.name: row(NONE, capabilities=LIMITS - {"network"} | {"kill"}, languages=("bash", "sh", "perl")),
    "fake": conformance.Backend(
        fake,
        name="fake",
        programs=Programs(language="sh", hello="hello"),
        capabilities=frozenset(),
        host_workspace=False,
        exceptions={"test_an_explicit_limit_that_nothing_enforces_is_refused": REFUSES_NOTHING},
    ),
}
ENGINES = {each.name: each for each in (*BACKENDS, KERNEL, KERNEL_DOCKER, NONE)}
LONG = {DOCKER.name, KERNEL_DOCKER.name, NONE.name}
"""Rows whose backend the rest of the suite tries on nearly the same; `make matrix` runs them too."""


class TestEveryBackend(ConformanceTests):
    """Every backend, the fake one included."""

    @pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.matrix] * (name in LONG)) for name in ROWS])
    def backend(self, request: pytest.FixtureRequest) -> conformance.Backend:
        name: str = request.param
        if name in ENGINES:
            require_engine(ENGINES[name].installed(), ENGINES[name].engine)
        return ROWS[name]

    def prepare(self, arena: Arena) -> None:
        if "docker" in arena.backend.name and os.geteuid() == 0:  # so that blocks are not root either
            os.chown(arena.workspace, NOBODY, NOBODY)

    def clean_up(self, arena: Arena) -> None:
        remove_tree(str(arena.workspace))
