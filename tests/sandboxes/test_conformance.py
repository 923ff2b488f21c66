"""The public kit on every backend, as anybody would run it on theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxes import FakeExecutor, Limits, conformance
from sandboxes.conformance import Arena, ContractTests, HostileTests, LifetimeTests, Programs, Suite, VerdictTests
from sandboxes.runner.files import remove_tree
from tests.sandboxes.backends import BACKENDS, KERNELS, NONE, Backend, require_engine
from tests.sandboxes.hostile import arena as hostile
from tests.sandboxes.hostile.exceptions import NAMES

LIMITS = frozenset(Limits.model_fields)
ENGINES = {each.name: each for each in (*BACKENDS, *KERNELS, NONE)}


def row(backend: Backend) -> conformance.Backend:
    """Return what the kit is told of one of ours."""
    return backend.for_kit(
        capabilities=hostile.ALL if backend is not NONE else LIMITS - {"network"} | {"kill"},
        languages=("bash", "sh", "perl"),
        exceptions={} if backend.namespaces or backend is NONE else {"test_files_of_the_host_are_not_there": NAMES},
    )


def fake(limits: Limits, workspace: Path | None) -> FakeExecutor:
    return FakeExecutor({"hello": "hello\n"}, limits=limits)


REFUSES_NOTHING = "it reports its limits, and does not enforce them"
FAKE = conformance.Backend(
    fake,
    name="fake",
    programs=Programs(language="sh", hello="hello"),
    capabilities=frozenset(),
    host_workspace=False,
    exceptions={"test_an_explicit_limit_that_nothing_enforces_is_refused": REFUSES_NOTHING},
)
ROWS = {**{name: row(each) for name, each in ENGINES.items()}, FAKE.name: FAKE}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on each row."""
    metafunc.parametrize("backend", list(ROWS), indirect=True)


@pytest.mark.usefixtures("nothing_left")
class OnEveryBackend(Suite):
    """Every backend, the fake one included."""

    @pytest.fixture
    def backend(self, request: pytest.FixtureRequest) -> conformance.Backend:
        name: str = request.param
        if name in ENGINES:
            require_engine(ENGINES[name].installed(), ENGINES[name].engine)
        return ROWS[name]

    def make_arena(self, backend: conformance.Backend, directory: Path, claims: frozenset[str]) -> Arena:
        if backend is FAKE:
            return super().make_arena(backend, directory, claims)
        return hostile.Arena(ENGINES[backend.name], directory, backend, claims)

    def clean_up(self, arena: Arena) -> None:
        remove_tree(str(arena.workspace))


class TestContract(OnEveryBackend, ContractTests, LifetimeTests):
    """Files, results, output and lifetime; `test_contract.py` asks our own for more."""


class TestContainment(OnEveryBackend, VerdictTests, HostileTests):
    """Verdicts, and what code inside may try; the hostile suite tries more."""
