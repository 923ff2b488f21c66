"""`agentexec doctor`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentexec.cli.doctor import render
from sandboxes import open_executor
from sandboxes.doctor import CANDIDATES, BackendReport, Diagnosis, Finding, Machine
from tests.sandboxes.backends import DOCKER, LOCAL, require_engine

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
MACHINE = Machine(system="Linux 6.8 x86_64", user="me\x1b[2J", container="", wsl=0, landlock=4, control_groups=2)
HELD = Finding(aspect="memory", held=True, mechanism="memory control group", evidence="ended")
FAILED = Finding(aspect="network", held=False, mechanism="a promise", evidence="reached a \x1b]0;service\x07")
ADVISED = Finding(aspect="kernel memory", held=False, mechanism="watcher", evidence="not counted", advisory=True)


def diagnosis(*findings: Finding, default: str = "local+bwrap", reason: str = "") -> Diagnosis:
    report = BackendReport(name="local+bwrap", available=True, tier="bwrap", findings=findings)
    missing = BackendReport(name="docker", available=False, reason="no Docker engine answers: " + "start it " * 20)
    return Diagnosis(
        machine=MACHINE, default=default, reason=reason, backends=(report, missing), advice=("docker: do it", "type it")
    )


@pytest.mark.parametrize(("findings", "isolated"), [((HELD, ADVISED), True), ((HELD, FAILED), False), ((), False)])
def test_what_is_not_held_decides(findings: tuple[Finding, ...], isolated: bool) -> None:
    found = diagnosis(*findings)
    assert found.isolated == isolated
    words = render(found, colour=False).splitlines()[-1]
    assert ("NOT isolated" in words) != isolated


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP, signal.SIGINT]])
def test_an_interrupted_one_leaves_nothing_behind(tmp_path: Path, signals: list[signal.Signals]) -> None:
    require_engine(LOCAL.installed(), LOCAL.engine)
    command = [sys.executable, "-m", "agentexec", "doctor"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, start_new_session=True) as process:
        while len(list(tmp_path.iterdir())) < 4:
            assert process.poll() is None
            time.sleep(0.01)
        for number in signals:
            os.killpg(process.pid, number)  # as a terminal does
            time.sleep(0.05)
        said = process.communicate()
    assert (process.returncode, said, list(tmp_path.iterdir())) == (130, (b"", b""), [])


def test_a_default_that_refuses_is_not_isolated() -> None:
    found = diagnosis(HELD, default="", reason="bubblewrap is not installed: type it")
    assert not found.isolated
    assert render(found, colour=False).endswith(
        "The default sandbox refuses to work here: bubblewrap is not installed: type it"
    )


def test_text_fits_and_is_harmless() -> None:
    text = render(diagnosis(HELD, FAILED, ADVISED), colour=False)
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert "- local+bwrap: network: reached a" in text
    assert "type it" in text
    assert re.search("^nothing +network, kernel memory$", text, re.MULTILINE), "what is not held is held by nothing"
    coloured = render(diagnosis(HELD, FAILED, ADVISED), colour=True)
    assert re.search(r"\x1b\[1;31m *NO", coloured)
    assert "\x1b[2J" not in coloured
    assert "\x1b]0;" not in coloured


@pytest.mark.timeout(240)
def test_command_on_a_machine_with_everything() -> None:
    for backend in (LOCAL, DOCKER):
        require_engine(backend.installed(), backend.engine)
    done = subprocess.run(
        [sys.executable, "-m", "agentexec", "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"machine", "default", "reason", "backends", "advice", "isolated"}
    assert (found["default"], found["isolated"]) == ("local+bwrap", True)
    assert [each["name"] for each in found["backends"]] == [candidate.name for candidate in CANDIDATES]
    for report in found["backends"]:
        if report["name"] not in ("local+none", "local+landlock"):
            failed = [each for each in report["findings"] if not each["held"] and not each["advisory"]]
            assert (report["name"], failed, report["reason"]) == (report["name"], [], "")
    assert {each["name"] for each in found["backends"] if not each["isolated"]} >= {"local+none"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount something over bwrap")
@pytest.mark.timeout(240)
def test_status_is_1_if_the_default_is_not_isolated(tmp_path: Path) -> None:
    # A bwrap that isolates nothing: it only runs what it is given.
    weak = tmp_path / "bwrap"
    weak.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no namespaces here')\n")
    weak.chmod(0o755)
    command = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /usr/bin/bwrap && exec "$@"', str(weak)]
    done = subprocess.run(
        [*command, sys.executable, "-m", "agentexec", "doctor", "--json"],
        env={**os.environ, "DOCKER_HOST": "unix:///nowhere"},
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["isolated"] else 1)
    assert "no namespaces here" in found["backends"][0]["reason"]
    assert found["default"] != "local+bwrap"


@pytest.mark.parametrize("spec", ["local", "docker"])
def test_every_mechanism_stands_in_the_readme(spec: str) -> None:
    mechanisms = dict(open_executor(spec).isolation.mechanisms)
    mechanisms.pop("tier", "")  # says why it was chosen
    assert mechanisms
    words = re.sub(r"\s+", " ", README.replace("`", ""))
    for mechanism in mechanisms.values():
        for phrase in re.split(r", | and |; ", mechanism):
            assert phrase in words, f"{phrase!r} of {mechanism!r} is not in README"
