"""A real engine, and what has to be in it after the tests as it was before."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxes.docker.owners import KIND, PROCESS, is_abandoned
from sandboxes.docker.sandbox import DEFAULT_IMAGE
from tests.sandboxes.backends import DOCKER, descendants, engine, require_engine


@pytest.fixture(autouse=True, scope="package")
def _engine() -> None:
    require_engine(DOCKER.installed(), DOCKER.engine)


def everything() -> dict[str, set[str]]:
    """Return all that the engine has, but for images and what another test process has there just now."""
    with engine() as client:
        return {
            "containers": {each["Id"] for each in client.containers(all=True) if not elsewhere(each["Labels"])},
            "volumes": {each["Name"] for each in client.volumes()["Volumes"] or () if not elsewhere(each["Labels"])},
            "networks": {each["Id"] for each in client.networks()},
        }


def elsewhere(labels: dict[str, str] | None) -> bool:
    """Whether something in the engine is a sandbox's whose owner is neither this process nor one that it started."""
    if not labels or KIND not in labels:
        return False
    owner = int(labels[PROCESS].partition(".")[0])
    return owner not in {os.getpid(), *descendants()} and not is_abandoned(labels)


@pytest.fixture(autouse=True)
def engine_is_as_before() -> Iterator[None]:
    """No test leaves a container, a volume or a network."""
    before = everything()
    yield
    end = time.monotonic() + 10  # the engine removes a container a moment after its end
    while everything() != before and time.monotonic() < end:
        time.sleep(0.05)
    assert everything() == before


BRIDGE = "agentexec-test0"


class PrivateEngine:
    """An engine of the tests' own, to be stopped, hung and restarted.

    Attributes:
        url: Its address.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.url = f"unix://{directory}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        at = self._directory
        # With no bridge at all, it would remove the bridge of the common engine.
        subprocess.run(["ip", "link", "add", "name", BRIDGE, "type", "bridge"], check=True)
        with (at / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("dockerd", "--host", self.url, "--data-root", str(at / "data"), "--exec-root", str(at / "exec")),
                    *("--pidfile", str(at / "pid"), f"--bridge={BRIDGE}", "--iptables=false", "--ip6tables=false"),
                ],
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.connect(self.url.removeprefix("unix://"))
                break
            time.sleep(0.1)
        while time.monotonic() < end:
            with contextlib.suppress(docker.errors.DockerException), self.client() as own:
                own.ping()
                return
            time.sleep(0.1)
        raise AssertionError((at / "log").read_text()[-2000:])

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        made: Any = docker.APIClient(self.url, version="auto", timeout=120)  # an image is loaded by it
        try:
            yield made
        finally:
            made.close()

    def load(self, image: str) -> None:
        """Copy an image from the common engine."""
        with engine() as common, self.client() as own:
            own.load_image(b"".join(common.get_image(image)))

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it with all its containers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(30)
            self._process = None
            subprocess.run(["ip", "link", "delete", BRIDGE], check=True)


@pytest.fixture(scope="package")
def private_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateEngine]:
    """An engine with our image, running."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a Docker engine")
    require_engine(shutil.which("dockerd") is not None, "dockerd")
    directory = tmp_path_factory.mktemp("engine")
    made = PrivateEngine(directory)
    made.start()
    try:
        made.load(DEFAULT_IMAGE)
        yield made
    finally:
        made.stop()
        for mount in reversed(Path("/proc/mounts").read_text().splitlines()):
            place = mount.split()[1]
            if place.startswith(f"{directory}/"):
                subprocess.run(["umount", "-l", place], check=True)
        shutil.rmtree(directory)
