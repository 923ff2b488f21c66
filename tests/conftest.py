"""What has to hold after all tests together."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from sandboxes.docker.owners import KIND, PROCESS, is_abandoned
from tests.sandboxes.backends import docker_installed, engine


def left() -> set[str]:
    """Return the containers and volumes in the engine that are this process's, or of one that is gone."""
    found: dict[str, dict[str, str]] = {}
    with engine() as client:
        for each in client.containers(all=True, filters={"label": KIND}):
            found[each["Id"]] = each["Labels"]
        for each in client.volumes(filters={"label": KIND})["Volumes"] or ():
            found[each["Name"]] = each["Labels"]
    own = f"{os.getpid()}."
    return {name for name, labels in found.items() if labels[PROCESS].startswith(own) or is_abandoned(labels)}


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
