"""Where this is, the traps that are common there, and what to type."""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from sandboxes.doctor.report import BackendReport, Machine
from sandboxes.isolation import landlock
from sandboxes.isolation.cgroups import usable_place

DELEGATE = "systemd-run --user --scope -p Delegate=yes COMMAND"


def look_at_machine() -> Machine:
    """Return where this is."""
    place = usable_place()
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        user=_user(),
        container=find_container(),
        wsl=find_wsl(platform.release()),
        landlock=landlock.abi(),
        control_groups=0 if place is None else place.version,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a number without a name
        return str(os.getuid())


def find_container(root: Path = Path("/")) -> str:
    """Return what kind of container this is in; empty if in none that is known."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    try:
        # What systemd's container interface asks of the ones who make containers.
        environment = (root / "proc/1/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((each[10:].decode("ascii", "replace") for each in environment if each.startswith(b"container=")), "")


def find_wsl(release: str) -> int:
    """Return 1 or 2 for a kernel of the Windows Subsystem for Linux, else 0."""
    if "microsoft" not in release.lower():
        return 0
    return 2 if "WSL2" in release or "microsoft" in release else 1  # the first one's is 4.4.0-19041-Microsoft


def advice(
    machine: Machine, reports: Sequence[BackendReport], default: str, proc: Path = Path("/proc")
) -> Iterator[str]:
    """Yield what to type to have more, or more of it held, on this machine."""
    by_name = {report.name: report for report in reports}
    if not machine.system.startswith("Linux"):
        yield "the isolated local sandbox needs Linux: use --sandbox docker here"
    if machine.wsl == 1:
        yield "WSL 1 has no Linux kernel: type 'wsl --set-version DISTRIBUTION 2' on Windows"
    bwrap = by_name.get("local+bwrap")
    if bwrap is not None and not bwrap.available and machine.system.startswith("Linux"):
        yield from _namespace_advice(machine, bwrap.reason, proc)
    confined = by_name.get("local+landlock")
    if confined is not None and not confined.available and machine.landlock == 0:
        yield _landlock_advice(proc)
    if machine.control_groups == 0 and machine.system.startswith("Linux"):
        yield _group_advice(machine, proc)
    for report in reports:
        if not report.available and not report.name.startswith("local"):
            yield f"{report.name}: {report.reason}"
    for report in reports:
        if report.tier.startswith("docker") and any(
            not each.held for each in report.findings if each.aspect in ("memory", "processes")
        ):
            yield (
                "a rootless Docker engine limits memory and processes only with control groups of version 2 that are "
                "delegated to it: type 'sudo mkdir -p /etc/systemd/system/user@.service.d', put '[Service]' and "
                "'Delegate=cpu memory pids' into delegate.conf in it, and log in again"
            )
            break
    if default and default != "local+bwrap" and bwrap is not None and not bwrap.available:
        yield f"until then, --sandbox local is {default}"


def _namespace_advice(machine: Machine, reason: str, proc: Path) -> Iterator[str]:
    if "not installed" in reason:
        yield reason
        return
    if _number(proc / "sys/kernel/apparmor_restrict_unprivileged_userns") == 1:
        yield (
            "AppArmor keeps user namespaces from bubblewrap (Ubuntu 23.10 and newer): type 'sudo apt-get install "
            "apparmor-profiles && sudo ln -s /usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/ "
            "&& sudo systemctl reload apparmor', or 'sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0'"
        )
    elif _number(proc / "sys/kernel/unprivileged_userns_clone") == 0 and os.geteuid() != 0:
        yield "user namespaces are switched off: type 'sudo sysctl kernel.unprivileged_userns_clone=1'"
    elif _number(proc / "sys/user/max_user_namespaces") == 0:
        yield "user namespaces are switched off: type 'sudo sysctl user.max_user_namespaces=15000'"
    elif machine.container:
        yield (
            f"this is inside a container ({machine.container}), which forbids namespaces: start it with --security-opt "
            "seccomp=unconfined --security-opt systempaths=unconfined (and --security-opt apparmor=unconfined where "
            "there is AppArmor), or use the Landlock tier"
        )
    else:
        yield f"bubblewrap: {reason}"


def _landlock_advice(proc: Path) -> str:
    release = platform.release()
    try:
        modules = (proc.parent / "sys/kernel/security/lsm").read_text().strip()
    except OSError:
        modules = ""
    if modules and "landlock" not in modules.split(","):
        return f"Landlock is switched off: add lsm=landlock,{modules} to the kernel's command line"
    return f"the kernel ({release}) offers no Landlock, which is in Linux since 5.13: a newer kernel has it"


def _group_advice(machine: Machine, proc: Path) -> str:
    if machine.container:
        return (
            "no control groups can be made in this container, so the local sandbox's limits on memory are the runner's "
            "watcher's alone: --memory and --pids-limit of the container itself hold all of it"
        )
    if (proc.parent / "run/systemd/system").exists():
        return (
            f"no control group is delegated to this session: start it with '{DELEGATE}', and the kernel holds memory "
            "and processes of the local sandbox"
        )
    return "no control groups can be made here: memory of the local sandbox is held by the runner's watcher alone"


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
