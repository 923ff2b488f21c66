"""`sandboxes.doctor`: true on every kind of machine, and able to say that something is not held."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from sandboxes import CodeBlock, Executor, Isolation, Limits, OnOutput, Result, open_executor
from sandboxes.docker.sandbox import DEFAULT_IMAGE
from sandboxes.doctor import CANDIDATES, Candidate, Diagnosis, diagnose
from sandboxes.doctor.canaries import VARIABLE, Canaries
from sandboxes.doctor.probes import PROBES
from tests.sandboxes.backends import DOCKER, LOCAL, require_engine

NOBODY = 65534
BY_NAME = {candidate.name: candidate for candidate in CANDIDATES}
LIMIT_ASPECTS = {"wall_time", "cpu_time", "memory", "processes", "disk", "file_size", "open_files", "output"}
OTHER_ASPECTS = {
    "network",
    "filesystem",
    "secrets",
    "other processes",
    "privileges",
    "kill",
    "kernel memory",
    "next block",
}
PROGRAM = """
import asyncio, sys
from sandboxes.doctor import CANDIDATES, diagnose
chosen = [candidate for candidate in CANDIDATES if candidate.name in sys.argv[1:]]
print(asyncio.run(diagnose(chosen)).model_dump_json())
"""


def diagnose_elsewhere(names: Sequence[str], *, prefix: Sequence[str] = (), **environment: str) -> Diagnosis:
    """Return what a process finds that lives in a world of another kind."""
    done = subprocess.run(
        [*prefix, *interpreter(prefix), "-c", PROGRAM, *names],
        env={**os.environ, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for report in (found, *found["backends"]):
        del report["isolated"]  # which is computed
    return Diagnosis.model_validate(found)


def interpreter(prefix: Sequence[str]) -> list[str]:
    """Return a command for Python with our packages, which another user can run too."""
    root = str(Path(__file__).parents[3])
    for python in (sys.executable, "/usr/bin/python3"):
        path = ":".join(
            each for each in [root, *sys.path] if each.startswith("/") and "/lib/python3.11/lib" not in each
        )
        command = ["env", f"PYTHONPATH={path if python != sys.executable else root}", python]
        tried = subprocess.run([*prefix, *command, "-c", "import sandboxes.doctor"], cwd="/", capture_output=True)
        if tried.returncode == 0:
            return command
    pytest.skip("there is no interpreter that this user can run")


def problems(diagnosis: Diagnosis, name: str) -> dict[str, str]:
    (report,) = (each for each in diagnosis.backends if each.name == name)
    assert report.available, report.reason
    assert {each.aspect for each in report.findings} == LIMIT_ASPECTS | OTHER_ASPECTS
    return {each.aspect: each.evidence for each in report.findings if not each.held and not each.advisory}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["local+bwrap", "docker", "jupyter", "jupyter+docker"])
async def test_everything_is_held_where_everything_is_there(name: str) -> None:
    needed = DOCKER if "docker" in name else LOCAL
    require_engine(needed.installed(), needed.engine)
    diagnosis = await diagnose([BY_NAME[name]])
    assert problems(diagnosis, name) == {}
    mechanisms = {each.aspect: each.mechanism for each in diagnosis.backends[0].findings}
    assert "nothing" not in mechanisms.values()
    assert diagnosis.default == "local+bwrap"
    assert diagnosis.isolated == (name == "local+bwrap")


@pytest.mark.timeout(180)
async def test_no_isolation_is_said_to_be_none() -> None:
    diagnosis = await diagnose([BY_NAME["local+none"]], default=BY_NAME["local+none"])
    assert set(problems(diagnosis, "local+none")) >= {
        "filesystem",
        "network",
        "other processes",
        "privileges",
        "secrets",
    }
    assert not set(problems(diagnosis, "local+none")) & LIMIT_ASPECTS
    assert not diagnosis.isolated
    said = {each.aspect: each.mechanism for each in diagnosis.backends[0].findings}
    assert {said[aspect] for aspect in ("filesystem", "network", "secrets", "privileges")} == {"nothing"}


class PlainExecutor(Executor):
    """Runs blocks with no protection at all, and claims the best."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._directory = tempfile.TemporaryDirectory()

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def isolation(self) -> Isolation:
        return Isolation(tier="plain", mechanisms={"filesystem": "a promise"})

    async def start(self) -> None:
        pass

    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        return await asyncio.to_thread(self._run, block.code)

    def _run(self, code: str) -> Result:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=self._directory.name,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(1.5)
        with open(os.devnull, "wb"):
            os.killpg(process.pid, signal.SIGKILL)
        out = process.communicate()[0]
        return Result(verdict="ok", stdout=out.decode(), stdout_bytes=len(out))

    async def cancel(self) -> None:
        pass

    async def put(self, path: str, data: bytes) -> None:
        raise NotImplementedError

    async def get(self, path: str, *, max_bytes: int = 0) -> bytes:
        raise NotImplementedError

    async def restart(self) -> None:
        pass

    async def close(self) -> None:
        self._directory.cleanup()


class Plain(Candidate):
    """Has executors of the kind above."""

    def open(self, limits: Limits) -> Executor:
        return PlainExecutor(limits)


@pytest.mark.timeout(180)
async def test_every_probe_finds_an_executor_that_holds_nothing() -> None:
    weak = Plain("weak", "")
    diagnosis = await diagnose([weak], default=weak)
    (report,) = diagnosis.backends
    # A file of 6 MB is not in a result that lists no files, but its verdict is.
    held = {each.aspect for each in report.findings if each.held}
    assert held == {"next block"}
    assert not diagnosis.isolated
    assert "daemon" in problems(diagnosis, "weak")["kill"] or "left" in problems(diagnosis, "weak")["kill"]


@pytest.mark.timeout(180)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount something over bwrap")
def test_without_bubblewrap() -> None:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        pytest.skip("it is missing already")
    hide = ["unshare", "--mount", "sh", "-c", 'mount --bind /dev/null "$0" && exec "$@"', os.path.realpath(bwrap)]
    diagnosis = diagnose_elsewhere(["local+bwrap", "local+landlock"], prefix=hide)
    missing = diagnosis.backends[0]
    assert not missing.available
    assert "apt-get install bubblewrap" in missing.reason
    assert any("apt-get install bubblewrap" in line for line in diagnosis.advice)
    if diagnosis.machine.landlock:
        assert diagnosis.default == "local+landlock"
        assert problems(diagnosis, "local+landlock") == {}
        assert diagnosis.isolated
    else:
        assert (diagnosis.default, diagnosis.isolated) == ("", False)
        assert "bubblewrap" in diagnosis.reason


@pytest.mark.timeout(180)
def test_without_docker() -> None:
    diagnosis = diagnose_elsewhere(["docker", "jupyter+docker"], DOCKER_HOST="unix:///nowhere/docker.sock")
    assert [each.available for each in diagnosis.backends] == [False, False]
    assert all("sudo systemctl start docker" in each.reason for each in diagnosis.backends)
    assert any(line.startswith("docker: ") for line in diagnosis.advice)


@pytest.mark.timeout(180)
def test_without_the_image() -> None:
    require_engine(DOCKER.installed(), DOCKER.engine)
    (report,) = diagnose_elsewhere(["docker"], AGENTEXEC_IMAGE="agentexec/nosuch").backends
    assert (report.available, "agentexec images build nosuch" in report.reason) == (False, True)


@pytest.mark.timeout(180)
def test_as_an_ordinary_user() -> None:
    require_engine(LOCAL.installed(), LOCAL.engine)
    prefix = []
    if os.geteuid() == 0:
        prefix = [
            "setpriv",
            f"--reuid={NOBODY}",
            f"--regid={NOBODY}",
            "--clear-groups",
            "env",
            "HOME=/tmp",
            "TMPDIR=/tmp",
        ]
    diagnosis = diagnose_elsewhere(["local+bwrap"], prefix=prefix)
    assert problems(diagnosis, "local+bwrap") == {}
    assert (diagnosis.default, diagnosis.isolated) == ("local+bwrap", True)
    said = {each.aspect: each.mechanism for each in diagnosis.backends[0].findings}
    if diagnosis.machine.control_groups == 0:
        assert said["memory"] == "runner's watcher"
        assert said["processes"] == "RLIMIT_NPROC in a user namespace"
        assert any("control group" in line for line in diagnosis.advice)


def test_a_variable_that_is_passed_on_is_seen_also_where_proc_tells_nothing() -> None:
    (probe,) = (probe for probe in PROBES if probe.aspect == "secrets")
    with Canaries() as canaries:
        program = f"import os\nos.listdir = lambda path: []\nHOST = {canaries.description()!r}\n{probe.program}"
        held = []
        for environment in ({}, {f"{VARIABLE}_x": canaries.secret}):
            done = subprocess.run(
                [sys.executable, "-I", "-c", program], env=environment, capture_output=True, text=True, check=True
            )
            held.append(probe.judge(Result(verdict="ok", stdout=done.stdout), canaries)[0])
    assert held == [True, False]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("user", ["0", str(NOBODY)])
def test_in_an_unprivileged_container(user: str) -> None:
    require_engine(DOCKER.installed() and shutil.which("docker") is not None, DOCKER.engine)
    packages, root = sysconfig.get_paths()["purelib"], Path(__file__).parents[3]
    command = ["docker", "run", "--rm", "--user", user, "-e", "PYTHONPATH=/repo:/packages", "-e", "HOME=/tmp"]
    volumes = ["-v", f"{root}:/repo:ro", "-v", f"{packages}:/packages:ro"]
    program = ["python3", "-c", PROGRAM, "local+bwrap", "local+landlock"]
    done = subprocess.run(
        [*command, *volumes, DEFAULT_IMAGE, *program], capture_output=True, text=True, timeout=170, check=False
    )
    if "No module named" in done.stderr or "ImportError" in done.stderr:
        pytest.skip("the image's Python is of another version than ours")
    found = json.loads(done.stdout)
    assert found["machine"]["container"] == "docker"
    assert found["machine"]["control_groups"] == 0
    bwrap, landlock = found["backends"]
    assert (bwrap["available"], "apt-get install bubblewrap" in bwrap["reason"]) == (False, True)
    if found["machine"]["landlock"]:
        failed = [each for each in landlock["findings"] if not each["held"] and not each["advisory"]]
        assert (found["default"], found["isolated"], failed) == ("local+landlock", True, [])
    assert any("--pids-limit" in line for line in found["advice"])


async def test_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = dict(os.environ)
    with Canaries() as canaries:
        assert list(tmp_path.iterdir())
        code = "import time; print('up', flush=True); time.sleep(60)"
        left = subprocess.Popen([sys.executable, "-c", code, canaries.tag], stdout=subprocess.PIPE)
        assert left.stdout is not None
        left.stdout.readline()  # at the very moment of its execution, a process has no arguments yet
    try:
        assert left.wait(20) == -signal.SIGKILL
    finally:
        left.kill()
        left.communicate()
    await diagnose([Plain("nothing", "")][:0], default=Plain("nothing", ""))
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []


async def test_a_backend_that_breaks_is_a_line() -> None:
    class Broken(Candidate):
        def open(self, limits: Limits) -> Executor:
            return open_executor("local", limits=limits, python="/nowhere/python3")

    (report,) = (await diagnose([Broken("broken", "")], default=Broken("broken", ""))).backends
    assert not report.available
    assert "/nowhere/python3" in report.reason
