"""What comes of a probe: whether the limit or the aspect has held, and what was seen of it."""

from __future__ import annotations

from collections.abc import Callable

from sandboxes.doctor.canaries import Canaries
from sandboxes.types import Result

Judgement = tuple[bool, str]
"""Whether it held, and what was seen."""
Judge = Callable[[Result, Canaries], Judgement]
FLOOD = 1_000_001
"""Bytes that the probe of `output` prints."""


def verdict_is(expected: str) -> Judge:
    """Return a judge for a program that has to end with this verdict."""

    def judge(result: Result, canaries: Canaries) -> Judgement:
        if result.verdict == expected:
            return True, result.message or f"ended with {expected}"
        return False, f"ended with {result.verdict}, not {expected}{_words(result)}"

    return judge


def _words(result: Result) -> str:
    said = result.message or result.stderr.strip().rpartition("\n")[2] or result.stdout.strip().rpartition("\n")[2]
    return f" ({said[:160]})" if said else ""


def kernel_memory(result: Result, canaries: Canaries) -> Judgement:
    """Judge whether what the kernel holds for a block, buffers of sockets here, counts as its memory."""
    if result.verdict == "ok":
        return False, "a block that filled buffers of sockets was not ended for it"
    return verdict_is("memory")(result, canaries)


def file_size(limit: int) -> Judge:
    """Return a judge for a program that writes one file larger than so many bytes."""

    def judge(result: Result, canaries: Canaries) -> Judgement:
        largest = max((file.size for file in result.files), default=0)
        if largest > limit:
            return False, f"wrote a file of {largest} bytes"
        return verdict_is("disk")(result, canaries)

    return judge


def at_most(limit: int, what: str) -> Judge:
    """Return a judge for a program that takes as much as it gets and prints how much that was.

    Args:
        limit: How much it may get.
        what: Its name, as the message of a block that ended for it has it.
    """

    def judge(result: Result, canaries: Canaries) -> Judgement:
        if result.verdict == "failed" and what in result.message:
            return True, result.message
        word = result.stdout.split()[-1:] or [""]
        if not word[0].isdigit():
            return False, f"could not be tried: ended with {result.verdict}{_words(result)}"
        return int(word[0]) <= limit, f"got {word[0]} {what}; the limit is {limit}"

    return judge


def output(limit: int) -> Judge:
    """Return a judge for a program that prints `FLOOD` bytes, of which only so many may be kept."""

    def judge(result: Result, canaries: Canaries) -> Judgement:
        if result.stdout_bytes != FLOOD:
            return False, f"could not be tried: {result.stdout_bytes} bytes were written{_words(result)}"
        held = result.truncated and len(result.stdout) < 2 * limit
        return held, f"kept {len(result.stdout)} characters of {FLOOD:,} bytes"

    return judge


def _tried(result: Result) -> str:
    """Return why an attempt does not count, or nothing."""
    return "" if result.stdout.rstrip().endswith("tried") else f"could not be tried: {result.verdict}{_words(result)}"


def network(result: Result, canaries: Canaries) -> Judgement:
    """Judge whether anything of this machine was reached."""
    if canaries.reached():
        return False, "reached a service of this machine"
    problem = _tried(result)
    return not problem, problem or "TCP, UDP and unix sockets of this machine were not reached"


def filesystem(result: Result, canaries: Canaries) -> Judgement:
    """Judge whether a file of this machine was read or changed."""
    if canaries.touched():
        return False, f"changed files in {canaries.file.parent}"
    if canaries.secret in result.stdout + result.stderr:
        return False, f"read {canaries.file}"
    problem = _tried(result)
    return not problem, problem or "a file of this machine was neither read nor changed"


def secrets(result: Result, canaries: Canaries) -> Judgement:
    """Judge whether a variable of this machine was seen."""
    if canaries.secret in result.stdout + result.stderr:
        return False, "read a variable of this machine's environment"
    problem = _tried(result)
    return not problem, problem or "no variable of this machine was seen"


def other_processes(result: Result, canaries: Canaries) -> Judgement:
    """Judge whether a process of this machine was ended or read."""
    if canaries.killed():
        return False, "killed a process of this machine"
    if canaries.secret in result.stdout:
        return False, "read the memory of a process of this machine"
    problem = _tried(result)
    return not problem, problem or "a process of this machine was neither killed nor read"


def privileges(result: Result, canaries: Canaries) -> Judgement:
    """Judge whether any privileged call was allowed; the program prints the names of those that were."""
    problem = _tried(result)
    if problem:
        return False, problem
    allowed = result.stdout.split()[:-1]
    return not allowed, f"allowed: {', '.join(allowed)}" if allowed else "refused: all that was tried"


def left_behind(result: Result, canaries: Canaries) -> Judgement:
    """Judge whether a daemon could be left; whether it still lives is looked at afterwards."""
    problem = _tried(result)
    return not problem, problem or "a daemon ended with its block"
