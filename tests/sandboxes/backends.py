"""The backends that the shared test bodies run on. Adding one is adding a row to `BACKENDS`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import glob
import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest

from sandboxes import Executor, Limits, conformance, open_executor
from sandboxes.docker.owners import KIND, PROCESS
from sandboxes.docker.sandbox import DEFAULT_IMAGE
from sandboxes.isolation import landlock


def require_engine(found: bool, what: str) -> None:
    """Skip the test where an engine is missing; fail it where the machine is said to have them all."""
    if found:
        return
    if os.environ.get("AGENTEXEC_REQUIRE_ENGINES") == "1":
        pytest.fail(f"{what} is missing, and AGENTEXEC_REQUIRE_ENGINES=1 says that it must not be")
    pytest.skip(f"{what} is missing")


def find_python(version: str) -> str:
    """Return the path of another interpreter, e.g. of "3.12"; skips the test where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    # Unlike Path.glob, this finds nothing in what it may not read.
    found = sorted(glob.glob(f"{pyenv}/{version}.*/bin/python3"))
    for path in (*found, shutil.which(f"python{version}")):
        if path is not None and os.access(path, os.X_OK):
            asked = subprocess.run(
                [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True
            )
            if asked.stdout.decode().strip() == version:
                return path
    pytest.skip(f"there is no Python {version} here")


def descendants(owner: int | None = None) -> set[int]:
    """Return the ids of all living processes below one, which is this one by default."""
    alive = set()
    for process in psutil.Process(owner).children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.add(process.pid)
        except psutil.NoSuchProcess:
            continue
    return alive


@contextlib.contextmanager
def engine() -> Iterator[Any]:
    """Connect to the Docker engine. Each time anew, since tests count open descriptors."""
    client: Any = docker.APIClient(version="auto", timeout=30)
    try:
        yield client
    finally:
        client.close()


def docker_installed() -> bool:
    """Whether a Docker engine runs and has our image."""
    return image_installed(DEFAULT_IMAGE)


@functools.cache
def image_installed(image: str) -> bool:
    """Whether a Docker engine runs and has an image."""
    with contextlib.suppress(docker.errors.DockerException, OSError), engine() as client:
        client.inspect_image(image)
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # a client that may not connect leaves its socket open
    return False


def containers(owner: int | None = None) -> list[str]:
    """Return the ids of all containers of a process, whatever state they are in; by default of this process."""
    if not docker_installed():
        return []
    with engine() as client:
        found = client.containers(all=True, filters={"label": f"{KIND}=sandbox"})
    return [each["Id"] for each in found if each["Labels"][PROCESS].startswith(f"{owner or os.getpid()}.")]


def container_processes(owner: int | None = None) -> set[int]:
    """Return the ids, on this machine, of all processes in the containers of a process."""
    pids = set()
    for container in containers(owner):
        try:
            with engine() as client:
                pids |= {int(row[1]) for row in client.top(container)["Processes"] or ()}  # as `ps -ef` has them
        except docker.errors.APIError:  # not started yet, or gone
            continue
    return pids


def local_runner(executor: Executor) -> int:
    """Return the id of the runner: of what we started, or of what bwrap started as PID 1."""
    (started,) = psutil.Process().children()
    return int(started.children()[0].pid if executor.isolation.tier == "bwrap" else started.pid)


def container_runner(executor: Executor) -> int:
    """Return the id of the runner in the only container."""
    (container,) = containers()
    with engine() as client:
        return int(client.inspect_container(container)["State"]["Pid"])


def image_environment() -> set[str]:
    """Return the names of the variables that the image and the engine set in every container."""
    with engine() as client:
        return {each.partition("=")[0] for each in client.inspect_image(DEFAULT_IMAGE)["Config"]["Env"]} | {"HOSTNAME"}


@dataclass(frozen=True)
class Backend:
    """One way to get an executor, and how to see from outside what it started.

    Attributes:
        name: For the test's id.
        spec: As `open_executor` takes it.
        engine: What has to be installed.
        installed: Whether it is.
        processes: Ids, on this machine, of all that the sandboxes of a process run; by default of this process.
        runner: Id, on this machine, of the runner of the only open executor.
        options: As `open_executor` takes them.
        namespaces: Whether blocks have process ids, a network and a file tree of their own.
        container: Whether it runs in a container.
        keeps_state: Whether blocks share a kernel, and what one has started lives on to the next.
    """

    name: str
    spec: str
    engine: str
    installed: Callable[[], bool]
    processes: Callable[..., set[int]]
    runner: Callable[[Executor], int] = local_runner
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    namespaces: bool = True
    container: bool = False
    keeps_state: bool = False

    def open(
        self, limits: Limits | None = None, workspace: Path | None = None, spec: str = "", **options: Any
    ) -> Executor:
        """Return an executor that is not started yet."""
        return open_executor(spec or self.spec, limits=limits, workspace=workspace, **{**self.options, **options})

    def for_kit(self, **about: Any) -> conformance.Backend:
        """Return what the conformance kit is told of it, and what else is said."""
        return conformance.Backend(
            self.open,
            name=self.name,
            lose=lambda executor: os.kill(self.runner(executor), signal.SIGKILL),
            **about,
        )


LOCAL = Backend("local", "local", "bubblewrap", lambda: shutil.which("bwrap") is not None, descendants)
LANDLOCK = Backend(
    "landlock",
    "local",
    "Landlock",
    landlock.usable,
    descendants,
    options={"isolation": "landlock"},
    namespaces=False,
)
DOCKER = Backend(
    "docker",
    "docker",
    f"a Docker engine with the image {DEFAULT_IMAGE}",
    docker_installed,
    container_processes,
    container_runner,
    container=True,
)
JUPYTER = dataclasses.replace(LOCAL, name="jupyter", spec="jupyter", keeps_state=True)
JUPYTER_DOCKER = dataclasses.replace(
    DOCKER,
    name="jupyter+docker",
    spec="jupyter+docker",
    engine="a Docker engine with the image agentexec/data",
    installed=functools.partial(image_installed, "agentexec/data"),
    keeps_state=True,
)
NONE = Backend(
    "local-none", "local", "Python", lambda: True, descendants, options={"isolation": "none"}, namespaces=False
)
BACKENDS = (LOCAL, LANDLOCK, DOCKER)
KERNELS = (JUPYTER, JUPYTER_DOCKER)
