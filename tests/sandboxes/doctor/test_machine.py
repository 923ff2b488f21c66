"""Common traps are recognised, and come with what to type."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandboxes.doctor.machine import advice, find_container, find_wsl, look_at_machine
from sandboxes.doctor.report import BackendReport, Finding, Machine
from sandboxes.isolation import landlock

LINUX = Machine(system="Linux 6.8.0 x86_64", user="me", container="", wsl=0, landlock=4, control_groups=2)
FORBIDDEN = BackendReport(name="local+bwrap", available=False, reason="bubblewrap failed: setting up uid map")


def settings(root: Path, **values: int) -> Path:
    """Make a /proc with settings of the kernel, `.` written as `__`; return it."""
    for name, value in values.items():
        path = root / "proc/sys" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    (root / "proc").mkdir(exist_ok=True)
    return root / "proc"


def told(root: Path, machine: Machine = LINUX, *reports: BackendReport, default: str = "", **values: int) -> str:
    return "\n".join(advice(machine, reports or (FORBIDDEN,), default, settings(root, **values)))


def test_nothing_is_advised_where_all_is_well(tmp_path: Path) -> None:
    assert told(tmp_path, LINUX, BackendReport(name="local+bwrap", available=True), default="local+bwrap") == ""


def test_apparmor_restricts_user_namespaces(tmp_path: Path) -> None:
    words = told(tmp_path, kernel__apparmor_restrict_unprivileged_userns=1, user__max_user_namespaces=100)
    assert "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0" in words


@pytest.mark.skipif(os.geteuid() == 0, reason="root is not an unprivileged user")
def test_user_namespaces_of_users_are_off(tmp_path: Path) -> None:
    assert "kernel.unprivileged_userns_clone=1" in told(tmp_path, kernel__unprivileged_userns_clone=0)


def test_user_namespaces_are_off(tmp_path: Path) -> None:
    words = told(tmp_path, kernel__apparmor_restrict_unprivileged_userns=0, user__max_user_namespaces=0)
    assert "sudo sysctl user.max_user_namespaces=15000" in words


def test_container_forbids_namespaces(tmp_path: Path) -> None:
    machine = LINUX.model_copy(update={"container": "docker", "control_groups": 0})
    words = told(tmp_path, machine, user__max_user_namespaces=100)
    assert "--security-opt seccomp=unconfined" in words
    assert "--pids-limit" in words


def test_bubblewrap_is_missing(tmp_path: Path) -> None:
    missing = BackendReport(name="local+bwrap", available=False, reason="bubblewrap is not installed: type 'apt …'")
    words = told(tmp_path, LINUX, missing, default="local+landlock", user__max_user_namespaces=0)
    assert words == "bubblewrap is not installed: type 'apt …'\nuntil then, --sandbox local is local+landlock"


def test_delegation_is_missing(tmp_path: Path) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    machine = LINUX.model_copy(update={"control_groups": 0})
    words = told(tmp_path, machine, BackendReport(name="local+bwrap", available=True), default="local+bwrap")
    assert "systemd-run --user --scope -p Delegate=yes" in words


@pytest.mark.parametrize(
    ("modules", "expected"), [("capability,yama", "lsm=landlock,capability,yama"), ("landlock,yama", "since 5.13")]
)
def test_landlock_is_missing(tmp_path: Path, modules: str, expected: str) -> None:
    (tmp_path / "sys/kernel/security").mkdir(parents=True)
    (tmp_path / "sys/kernel/security/lsm").write_text(modules)
    report = BackendReport(name="local+landlock", available=False, reason="no Landlock")
    assert expected in told(tmp_path, LINUX.model_copy(update={"landlock": 0}), report)


def test_rootless_engine_without_delegation_limits_nothing(tmp_path: Path) -> None:
    finding = Finding(aspect="processes", held=False, mechanism="pids control group", evidence="got 120")
    report = BackendReport(name="docker", available=True, tier="docker", findings=(finding,))
    assert "Delegate=cpu memory pids" in told(tmp_path, LINUX, report)


def test_missing_backends_are_told_with_their_own_words(tmp_path: Path) -> None:
    report = BackendReport(name="jupyter", available=False, reason="ipykernel is not installed")
    assert told(tmp_path, LINUX, report) == "jupyter: ipykernel is not installed"


def test_other_systems_have_docker(tmp_path: Path) -> None:
    machine = LINUX.model_copy(update={"system": "Darwin 24.0 arm64", "control_groups": 0, "landlock": 0})
    assert told(tmp_path, machine) == "the isolated local sandbox needs Linux: use --sandbox docker here"


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.8.0-45-generic", 0), ("4.4.0-19041-Microsoft", 1), ("5.15.153.1-microsoft-standard-WSL2", 2)],
)
def test_windows_subsystem_is_known_by_its_kernel(tmp_path: Path, release: str, version: int) -> None:
    assert find_wsl(release) == version
    words = told(tmp_path, LINUX.model_copy(update={"wsl": version}))
    assert ("wsl --set-version" in words) == (version == 1)


def test_containers_are_known_by_their_marks(tmp_path: Path) -> None:
    assert find_container(tmp_path) == ""
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/environ").write_bytes(b"PATH=/bin\0container=lxc\0")
    assert find_container(tmp_path) == "lxc"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.containerenv").touch()
    assert find_container(tmp_path) == "podman"
    (tmp_path / ".dockerenv").touch()
    assert find_container(tmp_path) == "docker"


def test_this_machine_is_described() -> None:
    machine = look_at_machine()
    assert machine.system.startswith("Linux")
    assert machine.landlock == landlock.abi()
    assert machine.user
