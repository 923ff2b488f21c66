"""What a container is allowed: everything off that tasks do not need, and no option that turns it on unasked."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from docker.types import DeviceRequest, Mount

from sandboxes.docker.engine import Image
from sandboxes.docker.workspace import WORKSPACE
from sandboxes.isolation.bwrap import ROOTS_OWN
from sandboxes.types import Limits, parse_size

HEADROOM, PRELOADED = 128 << 20, 512 << 20
"""Bytes of the memory control group for the runner, and for what it may have preloaded: the watcher knows how much
that is and gives the block all of its limit; the group is there for what is faster than the watcher."""

MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi"),
    *("/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
    *ROOTS_OWN,
)
"""What Docker hides by default, and what root could read without any capability."""
READ_ONLY = (
    *("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"),
    *("/proc/1", "/dev", "/dev/mqueue", "/dev/pts", "/sys/fs/cgroup"),
)
"""What Docker protects by default, and what root could change without any capability."""

HARMLESS = frozenset(
    {
        "blkio_weight",
        "cpu_period",
        "cpu_quota",
        "cpu_shares",
        "cpuset_cpus",
        "cpuset_mems",
        "device_read_bps",
        "device_read_iops",
        "device_write_bps",
        "device_write_iops",
        "dns",
        "dns_opt",
        "dns_search",
        "extra_hosts",
        "mem_reservation",
        "storage_opt",
    }
)
"""Settings of docker-py's `create_host_config` that cannot loosen the sandbox."""
THE_HOSTS = ("/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/var/lib/containerd", "/var/lib/docker", "/var/run")
"""The host's own: neither these directories, nor anything inside or above them, may be mounted."""
HOMES = ("/home", "/root")
SECRETS = frozenset({".aws", ".azure", ".config", ".docker", ".gnupg", ".kube", ".netrc", ".ssh"})
MOST_ENTRIES = 20_000
"""Files of a directory that are looked at for sockets: where there are any, they are found early."""


class UnsafeOption(ValueError):
    """A container option that breaks the isolation; says how to insist."""


@dataclass(frozen=True)
class ContainerOptions:
    """What people may choose about a container; see `DockerSandbox`."""

    cpus: float | None
    tmpfs: Mapping[str, int | str]
    mounts: Mapping[str, str]
    network: str | None
    gpus: int | str | Sequence[str] | None
    runtime: str | None
    host_config: Mapping[str, Any]


def refuse_loosening(options: ContainerOptions) -> None:
    """Refuse what makes a container a part of its host.

    Raises:
        UnsafeOption: names the option, and what to type if it is really meant.
    """
    network = options.network
    for name in sorted(set(options.host_config) - HARMLESS):
        raise UnsafeOption(f"host_config[{name!r}] may break the isolation; pass unsafe=True to have it all the same")
    if network is not None and (network == "host" or network.startswith(("container:", "ns:"))):
        raise UnsafeOption(f"network={network!r} shares somebody else's network; pass unsafe=True to have it")
    for source in options.mounts:
        refuse_place(Path(source), "mounts")
        if _has_socket(Path(source)):
            raise UnsafeOption(f"mounts: {source} has a socket in it, which leads out; pass unsafe=True to have it")


def refuse_place(source: Path, option: str) -> None:
    """Refuse a part of the machine's own system, and what holds its secrets.

    Raises:
        UnsafeOption: names the option, and what to type if it is really meant.
    """
    path = source.resolve()
    inside = any(path.is_relative_to(place) for place in THE_HOSTS)
    above = any(Path(place).is_relative_to(path) for place in (*THE_HOSTS, *HOMES))
    if inside or above or SECRETS.intersection(path.parts):
        raise UnsafeOption(f"{option}: {source} is a part of this machine's own system; pass unsafe=True to have it")


def _has_socket(path: Path) -> bool:
    def is_socket(name: str) -> bool:
        try:
            return stat.S_ISSOCK(os.stat(name).st_mode)
        except OSError:
            return False

    names = (os.path.join(parent, name) for parent, _, files in os.walk(path) for name in files)
    return is_socket(str(path)) or any(is_socket(name) for name in islice(names, MOST_ENTRIES))


def tmpfs_sizes(limits: Limits, image: Image, wanted: Mapping[str, int | str]) -> dict[str, int]:
    """Return the memory-backed directories with their sizes in bytes.

    What an image declares as a volume would be a directory of the host's disk that no limit holds.
    """
    sizes = dict.fromkeys([*image.volumes, "/var/tmp"], max(limits.memory // 16, 1 << 20))  # noqa: S108
    sizes["/tmp"] = max(limits.memory // 2, 1 << 20)  # noqa: S108 - inside the sandbox
    sizes.update((path, parse_size(size)) for path, size in wanted.items())
    sizes.pop(WORKSPACE, None)
    return sizes


def host_settings(
    limits: Limits, options: ContainerOptions, *, writable: Sequence[Mount], tmpfs: Mapping[str, int], preload: bool
) -> dict[str, Any]:
    """Return the arguments of docker-py's `create_host_config`."""
    shared = max(limits.memory // 2, 1 << 20)
    # Files stay when the kernel ends a process for want of memory. If they filled the group, the runner would be next.
    memory = HEADROOM + max(limits.memory, shared + sum(tmpfs.values())) + (PRELOADED if preload else 0)
    # The runner is in it too, with the threads that preloaded libraries may start.
    threads = os.cpu_count() or 1 if preload else 0
    read_only = (Mount(to, source, type="bind", read_only=True) for source, to in options.mounts.items())
    settings: dict[str, Any] = {
        "network_mode": (options.network or "bridge") if limits.network else "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": limits.processes + 1 + threads,
        "mem_limit": memory,
        "memswap_limit": memory,
        "mem_swappiness": 0,
        "shm_size": shared,
        "tmpfs": {path: _tmpfs_options(size) for path, size in tmpfs.items()},
        "mounts": [*writable, *read_only],
        "auto_remove": True,
        "log_config": {"type": "none"},
        "ipc_mode": "private",
    }
    if options.cpus is not None:
        settings["nano_cpus"] = int(options.cpus * 1e9)
    if options.gpus is not None:
        settings["device_requests"] = [_gpus(options.gpus)]
    if options.runtime is not None:
        settings["runtime"] = options.runtime
    return {**settings, **options.host_config}


def _tmpfs_options(size: int) -> str:
    # Every file costs the kernel memory, also an empty one.
    return f"rw,exec,nosuid,nodev,mode=1777,size={size},nr_inodes={max(1024, size // 4096)}"


def _gpus(wanted: int | str | Sequence[str]) -> DeviceRequest:
    if isinstance(wanted, int) or wanted == "all":
        return DeviceRequest(count=wanted if isinstance(wanted, int) else -1, capabilities=[["gpu"]])
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    return DeviceRequest(device_ids=names, capabilities=[["gpu"]])
