"""What has to hold after all tests together."""

from __future__ import annotations

import gc
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    """Mark what has to have the machine to itself, and what is left to `make matrix`.

    Every case of the sandboxes' tests runs on its first backend, and on one of the others, which its name decides on,
    so that each of them has its share. `make matrix` runs all of them on all.
    """
    rows: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        if any(item.path.is_relative_to(HERE / each) for each in ALONE):
            item.add_marker(pytest.mark.machine)
        if item.path.is_relative_to(HERE / "sandboxes") and (case := case_of(item)):
            rows.setdefault((item.path, case), []).append(item)
    for (_, case), (_, *others) in rows.items():
        chosen = zlib.crc32(case.encode()) % max(FEWEST, len(others))
        for number, item in enumerate(others):
            if number != chosen:
                item.add_marker(pytest.mark.matrix)


def case_of(item: pytest.Item) -> str:
    """Return what a test is called on every backend alike; an empty string where it is not run on several."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return ""
    backend: Any = item.callspec.params.get("backend", "")
    name: str = getattr(backend, "name", backend)
    return name and f"{item.originalname}[{item.callspec.id.replace(name, '*', 1)}]"


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
