"""A Docker engine: calls that end within a bound, and fail with words that help. All of them block."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import docker
import requests.exceptions
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env, parse_repository_tag

from sandboxes.docker.tunnel import Tunnel
from sandboxes.errors import SandboxStartError, SandboxUnavailable

CONNECT_TIMEOUT = 10
"""Seconds for the engine's first word."""
CALL_TIMEOUT = 60
"""Seconds for any single call after it: a busy engine may take its time to start a container."""
OWN_IMAGES = "agentexec/"
"""Images of this prefix are built here and never pulled: whoever has that name at a registry is not us."""


_VERSIONS: dict[str, str] = {}
"""Address to version of the API, so that only the first connection asks; a connection costs 8 ms."""


@dataclass(frozen=True)
class Image:
    """What we need to know of an image.

    Attributes:
        id: Digest of its configuration.
        architecture: As Go names it, e.g. `amd64`.
        volumes: Directories that its Dockerfile declares as volumes, which are writable.
        size: Bytes.
    """

    id: str
    architecture: str
    volumes: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class PullProgress:
    """How far a pull is, in bytes of the layers seen so far; `finished` comes last, and once."""

    image: str
    done: int
    total: int
    finished: bool = False


class Engine:
    """A connection to an engine.

    Args:
        url: `unix:///path`, `tcp://host:port` or `ssh://user@host`; None takes DOCKER_HOST, else the current
            context of the `docker` command, else the local socket.
        given_up: Asked while a connection by SSH comes up; if it says so, this fails at once.

    Attributes:
        url: The address that was asked for.
        address: The one to connect to, which is another if the engine is behind SSH.
        remote: Whether the engine does not see the files of this machine.
        tls: Certificates of the connection, or None.

    Raises:
        SandboxUnavailable: no engine answers there, or it does not let us in; says what to type.
    """

    def __init__(self, url: str | None = None, given_up: Callable[[], bool] = bool) -> None:
        self.url = engine_url(url)
        self.remote = is_remote(self.url)
        self._tunnel = Tunnel(self.url, given_up) if self.url.startswith("ssh:") else None
        self.address = self._tunnel.url if self._tunnel is not None else self.url
        self.tls = _certificates(self.url) if self.url.startswith(("tcp:", "https:")) else None
        try:
            with self._translated():
                version = _VERSIONS.get(self.url) or self._version()
                self._client = self._connect(version, CALL_TIMEOUT)
            _VERSIONS[self.url] = version
        except BaseException:
            if self._tunnel is not None:
                self._tunnel.close()
            raise

    def _version(self) -> str:
        """Return the version of the API that the engine speaks."""
        # With version="auto", docker-py leaves its connection open where nobody answers.
        first = self._connect(None, CONNECT_TIMEOUT)
        try:
            return str(first.version(api_version=False)["ApiVersion"])
        finally:
            first.close()

    def _connect(self, version: str | None, timeout: int) -> Any:
        return docker.APIClient(self.address, version=version, timeout=timeout, tls=self.tls or False)

    @property
    def rootless(self) -> bool:
        """Whether it is an ordinary user's, inside whose containers root is that user."""
        return "/run/user/" in self.url

    @property
    def api_version(self) -> str:
        """E.g. `1.41`."""
        return str(self._client.api_version)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connection."""
        self._client.close()
        if self._tunnel is not None:
            self._tunnel.close()

    @contextlib.contextmanager
    def _translated(self, doing: str = "") -> Iterator[None]:
        """Raise errors of docker-py, of the connection and of the system as ours, with what to do about them."""
        try:
            if self.address.startswith("unix:"):
                _knock(self.address.removeprefix("unix://"))
            yield
        except APIError as error:
            raise SandboxStartError(f"Docker cannot {doing}: {error.explanation or error}") from None
        except (DockerException, requests.exceptions.RequestException, OSError) as error:
            raise SandboxUnavailable(self._explain(error)) from None

    def _explain(self, error: BaseException) -> str:
        causes = list(_causes(error))
        if any(isinstance(cause, PermissionError) for cause in causes):
            return (
                f"no permission to use the Docker engine at {self.url}: type 'sudo usermod -aG docker $USER' and log "
                "in again (its members can become root), or use a rootless engine"
            )
        if any(isinstance(cause, requests.exceptions.Timeout | TimeoutError) for cause in causes):
            return (
                f"the Docker engine at {self.url} does not answer: see how it is ('docker info'), or restart it "
                "('sudo systemctl restart docker')"
            )
        return (
            f"no Docker engine answers at {self.url}: start it ('sudo systemctl start docker'), install it "
            f"('sudo apt-get install docker.io'), or name another in DOCKER_HOST ({_first_line(error)})"
        )

    # Images

    def image(self, name: str) -> Image | None:
        """Return what the engine knows of an image, or None if it does not have it."""
        with self._translated(f"look at the image {name}"):
            try:
                found = self._client.inspect_image(name)
            except ImageNotFound:
                return None
        return Image(
            id=found["Id"],
            architecture=found.get("Architecture", ""),
            volumes=tuple((found.get("Config") or {}).get("Volumes") or ()),
            size=found.get("Size", 0),
        )

    def pull(
        self,
        name: str,
        on_progress: Callable[[PullProgress], None] | None = None,
        given_up: Callable[[], bool] = bool,
    ) -> None:
        """Get an image from its registry.

        Args:
            name: Of the image.
            on_progress: Told how far it is.
            given_up: Asked at each word of the engine; if it says so, this returns without the image.

        Raises:
            SandboxUnavailable: it is one of our own, no registry answers, or it has no such image.
        """
        if name.startswith(OWN_IMAGES):
            short = name.removeprefix(OWN_IMAGES).partition(":")[0]
            raise SandboxUnavailable(f"the image {name} is not built yet: type 'agentexec images build {short}'")
        layers: dict[str, tuple[int, int]] = {}
        done = total = 0
        repository, tag = parse_repository_tag(name)
        try:
            with self._translated(f"pull {name}"):
                for step in self._client.pull(repository, tag=tag or "latest", stream=True, decode=True):
                    if given_up():
                        return
                    if "error" in step:
                        raise SandboxStartError(str(step["error"]))
                    _note(layers, step)
                    if on_progress is not None and layers:
                        done, total = (sum(column) for column in zip(*layers.values(), strict=True))
                        on_progress(PullProgress(name, done, total))
        except SandboxStartError as error:
            raise SandboxUnavailable(
                f"the image {name} is not in the engine, and cannot be pulled ({error}): check its name, or build it "
                f"('docker build -t {name} DIRECTORY'; 'agentexec images build' makes ours)"
            ) from None
        finally:
            if on_progress is not None and layers:
                on_progress(PullProgress(name, done, total, finished=True))

    def images(self, prefix: str) -> dict[str, int]:
        """Return names with their tags, and sizes in bytes, of the images whose names begin so."""
        with self._translated("list images"):
            found = self._client.images()
        return {tag: image["Size"] for image in found for tag in image.get("RepoTags") or () if tag.startswith(prefix)}

    def build(self, directory: str, name: str, arguments: Mapping[str, str], on_line: Callable[[str], None]) -> None:
        """Build an image from a directory with a Dockerfile.

        Raises:
            SandboxStartError: a step failed; the message has the last lines.
        """
        with self._translated(f"build {name}"):
            steps = self._client.build(path=directory, tag=name, buildargs=dict(arguments), forcerm=True, decode=True)
            last: deque[str] = deque(maxlen=20)
            for step in steps:
                if "error" in step:
                    raise SandboxStartError(f"cannot build {name}: {step['error']}\n" + "".join(last).rstrip())
                text = step.get("stream", "")
                last.append(text)
                if text.strip():
                    on_line(text.rstrip())

    # Containers and volumes

    def create(
        self,
        image: str,
        argv: list[str],
        host: Mapping[str, Any],
        *,
        masked: Sequence[str] = (),
        read_only: Sequence[str] = (),
        **options: Any,
    ) -> str:
        """Create a container that ends when its input does, and goes when it has ended; return its id.

        Args:
            image: An image that the engine has.
            argv: The whole command; the image's own entry point is not used.
            host: As `docker.APIClient.create_host_config` takes it.
            masked: Paths inside that cannot be looked into.
            read_only: Paths inside that cannot be changed.
            options: As `docker.APIClient.create_container` takes them.
        """
        with self._translated(f"create a container of {image}"):
            settings = self._client.create_host_config(**host)
            # docker-py has no words for these.
            settings["MaskedPaths"], settings["ReadonlyPaths"] = list(masked), list(read_only)
            created = self._client.create_container(
                image,
                entrypoint=argv,
                command=[],
                stdin_open=True,  # with what docker-py makes of it: closed for good when its one client leaves
                host_config=settings,
                healthcheck={"test": ["NONE"]},
                **options,
            )
        return str(created["Id"])

    def start(self, container: str) -> None:
        """Start a container."""
        with self._translated("start the container"):
            self._client.start(container)

    def remove(self, container: str) -> None:
        """End a container at once, and remove it with its anonymous volumes; no error if it is gone already."""
        with self._translated("remove the container"):
            try:
                self._client.remove_container(container, force=True, v=True)
            except NotFound:
                return
            except APIError as error:
                if error.status_code != 409:
                    raise
                # It is being removed already.
                with contextlib.suppress(NotFound):
                    self._client.wait(container, timeout=CONNECT_TIMEOUT, condition="removed")

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Make a named volume."""
        with self._translated("make a volume"):
            self._client.create_volume(name, labels=dict(labels))

    def remove_volume(self, name: str) -> None:
        """Remove a volume; no error if it is gone already."""
        with self._translated("remove the volume"), contextlib.suppress(NotFound):
            self._client.remove_volume(name, force=True)

    def run(self, container: str) -> int:
        """Start a container, wait for its end, and return its exit status."""
        with self._translated("run a container"):
            self._client.start(container)
            return int(self._client.wait(container, timeout=CALL_TIMEOUT)["StatusCode"])

    def labelled(self, labels: Mapping[str, str]) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
        """Return containers by id and volumes by name, each with its labels, of those that have all of `labels`."""
        wanted = {"label": [f"{key}={value}" for key, value in labels.items()]}
        with self._translated("list what it has"):
            containers = self._client.containers(all=True, filters=wanted)
            volumes = self._client.volumes(filters=wanted).get("Volumes") or ()
        return (
            {each["Id"]: each.get("Labels") or {} for each in containers},
            {each["Name"]: each.get("Labels") or {} for each in volumes},
        )


def _certificates(url: str) -> TLSConfig | None:
    """Return the certificates that the environment names, as for the `docker` command.

    Raises:
        SandboxUnavailable: they are not there.
    """
    try:
        return kwargs_from_env().get("tls")
    except DockerException:
        place = os.environ.get("DOCKER_CERT_PATH") or "~/.docker"
        raise SandboxUnavailable(
            f"the certificates for {url} are not in {place}: put ca.pem, cert.pem and key.pem there, name another "
            "place in DOCKER_CERT_PATH, or unset DOCKER_TLS_VERIFY"
        ) from None


def _knock(path: str) -> None:
    """Connect and leave, since docker-py does not close the socket of a connection that fails.

    Raises:
        OSError: nobody lets us in.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(CONNECT_TIMEOUT)
        client.connect(path)


def _note(layers: dict[str, tuple[int, int]], step: Mapping[str, Any]) -> None:
    """Note how many bytes of which layer a step of a pull reports, as (done, total)."""
    detail = step.get("progressDetail") or {}
    if step.get("status") == "Downloading" and detail.get("total"):
        layers[step["id"]] = detail["current"], detail["total"]
    elif step.get("status") in ("Download complete", "Pull complete") and step.get("id") in layers:
        total = layers[step["id"]][1]
        layers[step["id"]] = total, total


def engine_url(url: str | None = None) -> str:
    """Return the address of the engine to use: what is given, else as the `docker` command would choose."""
    return url or os.environ.get("DOCKER_HOST") or _context_host() or "unix:///var/run/docker.sock"


def is_remote(url: str) -> bool:
    """Whether an engine at this address does not see the files of this machine."""
    return not url.startswith(("unix:", "/", "npipe:"))


def _context_host() -> str:
    """Return the address that the `docker` command would use by its current context, or an empty string."""
    try:
        context = ContextAPI.get_current_context()
    except Exception:  # a broken configuration of another program
        return ""
    return "" if context is None or os.name == "nt" else str(context.Host or "").removeprefix("http+")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that it was made of: urllib3 and requests put the first one into arguments."""
    seen: list[BaseException] = []
    queue = [error]
    while queue:
        one = queue.pop()
        if not isinstance(one, BaseException) or one in seen:
            continue
        seen.append(one)
        queue += [one.__cause__, one.__context__, *one.args]
    yield from seen


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
