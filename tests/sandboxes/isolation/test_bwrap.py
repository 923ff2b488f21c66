"""What a start of bwrap takes, and what is left of one that cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandboxes.errors import SandboxError, SandboxStartError, SandboxUnavailable
from sandboxes.isolation import bwrap
from sandboxes.isolation.bwrap import BwrapCommand
from sandboxes.isolation.interpreter import find_interpreter
from sandboxes.isolation.seccomp import compile_filter
from sandboxes.types import Limits


def other_processor() -> bytes:
    return compile_filter("riscv64")


def too_long() -> bytes:
    return bytes(1 << 20)


@pytest.mark.parametrize(
    ("filters", "kind", "said"),
    [
        (other_processor, SandboxUnavailable, "no table of system calls for riscv64; use the docker sandbox"),
        (too_long, SandboxStartError, "too long"),
    ],
)
def test_a_start_that_cannot_be_is_told_and_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filters: object, kind: type[SandboxError], said: str
) -> None:
    monkeypatch.setattr(bwrap, "find_bwrap", lambda: "/usr/bin/bwrap")
    monkeypatch.setattr(bwrap, "compile_filter", filters)
    interpreter = find_interpreter()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(kind, match=said):
        BwrapCommand(interpreter, tmp_path, ["true"], Limits())
    assert os.listdir("/proc/self/fd") == before
