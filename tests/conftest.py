"""What has to hold after all tests together."""

from __future__ import annotations

import gc
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxes.docker.owners import KIND, PROCESS, is_abandoned
from tests.sandboxes.backends import docker_installed, engine

ALONE = (
    "cli/test_docker.py",
    "sandboxes/docker",
    "sandboxes/doctor",
    "sandboxes/isolation",
    "test_crash.py",
    "sandboxes/test_soak.py",
)
"""What looks at the whole engine or machine, below this directory: never beside other tests."""

FEWEST = 3
"""Where there are fewer backends than that besides the first, not every case runs on one of them."""
HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before `-m` looks for it
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what has to have the machine to itself, and what is left to `make matrix`."""
    rows: dict[tuple[Path, str], list[pytest.Function]] = {}
    for item in items:
        if any(item.path.is_relative_to(HERE / each) for each in ALONE):
            item.add_marker(pytest.mark.machine)
        if item.path.is_relative_to(HERE / "sandboxes") and (row := backend_of(item)):
            assert isinstance(item, pytest.Function)
            case = f"{item.originalname}[{item.callspec.id.replace(row, '*', 1)}]"
            rows.setdefault((item.path, case), []).append(item)
    for (_, case), (_, *others) in rows.items():
        chosen = zlib.crc32(case.encode()) % max(FEWEST, len(others))
        for number, item in enumerate(others):
            if number != chosen:
                item.add_marker(pytest.mark.matrix)


def backend_of(item: pytest.Item) -> str:
    """Return the name of the backend that a case is run on; an empty one where it is about none, or about its own.

    Every case runs on the first backend, and on one of the others, which its name decides on, so that each of them has
    its share. `make matrix` runs all of them on all.
    """
    backend = (
        item.callspec.params.get("backend") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
    )
    return str(getattr(backend, "name", backend or ""))


def pytest_collection_finish() -> None:
    """Take what is loaded by now out of the collector's way: the arenas of executors call it before and after each."""
    gc.collect()
    gc.freeze()


def left() -> set[str]:
    """Return the containers and volumes in the engine that are this process's, or of one that is gone.

    Where several processes share the suite, those of another one's killed owners are that one's to remove.
    """
    found: dict[str, dict[str, str]] = {}
    with engine() as client:
        for each in client.containers(all=True, filters={"label": KIND}):
            found[each["Id"]] = each["Labels"]
        for each in client.volumes(filters={"label": KIND})["Volumes"] or ():
            found[each["Name"]] = each["Labels"]
    own = f"{os.getpid()}."
    shared = "PYTEST_XDIST_WORKER" in os.environ

    def ours(owner: dict[str, str]) -> bool:
        return owner[PROCESS].startswith(own) or (not shared and is_abandoned(owner))

    return {name for name, labels in found.items() if ours(labels)}


@pytest.fixture(scope="session", autouse=True)
def engine_is_left_as_it_was() -> Iterator[None]:
    """The whole suite leaves nothing in the Docker engine."""
    if not docker_installed():
        yield
        return
    before = left()
    yield
    end = time.monotonic() + 10  # the engine removes a container a moment after its end
    while left() - before and time.monotonic() < end:
        time.sleep(0.1)
    assert left() - before == set()
