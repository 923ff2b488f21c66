"""Opens each backend with small limits, and tries everything on it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sandboxes.doctor.canaries import VARIABLE, Canaries
from sandboxes.doctor.machine import advice, look_at_machine
from sandboxes.doctor.probes import KILL, LIMITS, PROBES, STILL_THERE, TIME_PROBES, TIMES, Probe
from sandboxes.doctor.report import BackendReport, Diagnosis, Finding
from sandboxes.errors import SandboxError
from sandboxes.executor import Executor
from sandboxes.registry import open_executor
from sandboxes.types import CodeBlock, Isolation, Limits, Result
from sandboxes.waiting import uninterrupted

BACKEND_TIMEOUT = 150.0
"""Seconds for one backend; far more than it takes on a slow machine."""
END_TIMEOUT = 1.0
"""Seconds for what was left behind to be gone."""
ATTEMPTS = 4
"""How often a probe is repeated that something else has ended."""
MECHANISM: Mapping[str, Sequence[str]] = {
    "kernel memory": ("memory",),
    "privileges": ("system calls",),
}
"""Aspect to the keys of `Isolation.mechanisms` that tell of it, where that is not its own name."""


@dataclass(frozen=True)
class Candidate:
    """A backend to look at.

    Attributes:
        name: For the table.
        spec: As `open_executor` takes it.
        options: For the same.
    """

    name: str
    spec: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self, limits: Limits) -> Executor:
        """Return an executor that is not started yet."""
        return open_executor(self.spec, limits=limits, **self.options)


CANDIDATES = (
    Candidate("local+bwrap", "local", {"isolation": "bwrap"}),
    Candidate("local+landlock", "local", {"isolation": "landlock"}),
    Candidate("local+none", "local", {"isolation": "none"}),
    Candidate("docker", "docker"),
    Candidate("jupyter", "jupyter"),
    Candidate("jupyter+docker", "jupyter+docker"),
)


async def diagnose(
    candidates: Sequence[Candidate] = CANDIDATES, *, default: Candidate = Candidate("", "local")
) -> Diagnosis:
    """Find out what really holds a block on this machine, by trying to break out.

    All backends are looked at side by side; with all of them installed it takes some seconds. While it runs, the
    environment of this process has variables whose names begin with `AGENTEXEC_DOCTOR_CANARY`.

    Args:
        candidates: The backends.
        default: What is used where nothing is asked for; one of the candidates by name, or what `local` comes to.

    Returns:
        What was found. A backend that is missing is a line that says what to type, never an exception.
    """
    heavy = asyncio.Lock()
    machine = await asyncio.to_thread(look_at_machine)
    # `gather` would be over with the first of them that is cancelled, and the loop's end would leave sandboxes behind.
    async with asyncio.TaskGroup() as group:
        usual = group.create_task(_default(default))
        examined = [group.create_task(_examine(candidate, heavy)) for candidate in candidates]
    name, reason = usual.result()
    reports = [each.result() for each in examined]
    return Diagnosis(
        machine=machine,
        default=name,
        reason=reason,
        backends=tuple(reports),
        advice=tuple(advice(machine, reports, name)),
    )


async def _default(default: Candidate) -> tuple[str, str]:
    """Return what the default sandbox comes to here, or why it refuses."""
    if default.name:
        return default.name, ""
    try:
        async with default.open(LIMITS) as executor:
            return f"{default.spec}+{executor.isolation.tier}", ""
    except (SandboxError, OSError) as error:
        return "", str(error)


async def _examine(candidate: Candidate, heavy: asyncio.Lock) -> BackendReport:
    started = time.monotonic()
    try:
        async with asyncio.timeout(BACKEND_TIMEOUT):
            with ExitStack() as stack:
                # Whatever interrupts it: what has been made by then is removed.
                canaries = await uninterrupted(asyncio.to_thread(lambda: stack.enter_context(Canaries())))
                stack.enter_context(_in_environment(canaries))
                tier, findings = await Examination(candidate, canaries, heavy).run()
    except TimeoutError:
        return BackendReport(
            name=candidate.name, available=False, reason=f"did not come to an end within {BACKEND_TIMEOUT:g} s"
        )
    except (SandboxError, ValueError, OSError, ImportError) as error:
        return BackendReport(name=candidate.name, available=False, reason=str(error) or repr(error))
    return BackendReport(
        name=candidate.name,
        available=True,
        tier=tier,
        findings=tuple(findings),
        seconds=round(time.monotonic() - started, 2),
    )


@contextmanager
def _in_environment(canaries: Canaries) -> Iterator[None]:
    """Have a secret in our own environment, for a backend that would pass it on."""
    name = f"{VARIABLE}_{canaries.tag}"
    os.environ[name] = canaries.secret
    try:
        yield
    finally:
        os.environ.pop(name, None)


class Examination:
    """All attempts on one backend.

    Args:
        candidate: The backend.
        canaries: Of its own, so that what is touched was touched by it.
        heavy: Held while a probe uses much memory.
    """

    def __init__(self, candidate: Candidate, canaries: Canaries, heavy: asyncio.Lock) -> None:
        self._candidate = candidate
        self._canaries = canaries
        self._heavy = heavy

    async def run(self) -> tuple[str, list[Finding]]:
        """Return the tier and what was found.

        Raises:
            SandboxError: the backend cannot be used here.
        """
        slow = asyncio.create_task(self._times())
        try:
            async with self._candidate.open(LIMITS) as executor:
                isolation = executor.isolation
                findings = [await self._try(executor, probe, isolation) for probe in PROBES]
                kill = await self._leave_something(executor, isolation)
                following = await self._next_block(executor)
            times = await slow
        finally:
            await _ended(slow)
        # What a kernel started lives as long as the kernel; so the last look is after everything.
        left = await self._left()
        if left:
            kill = kill.model_copy(update={"held": False, "evidence": f"processes are left: {left}"})
        return isolation.tier, [*times, *findings, kill, following]

    async def _times(self) -> list[Finding]:
        findings = []
        for probe in TIME_PROBES:
            async with self._candidate.open(TIMES[probe.aspect]) as executor:
                findings.append(await self._try(executor, probe, executor.isolation))
        return findings

    async def _try(self, executor: Executor, probe: Probe, isolation: Isolation) -> Finding:
        if probe.heavy:
            async with self._heavy:
                result = await self._run(executor, probe)
        else:
            result = await self._run(executor, probe)
            for _ in range(ATTEMPTS):
                if not probe.disturbed(result):
                    break
                result = await self._run(executor, probe)
        held, evidence = probe.judge(result, self._canaries)
        return Finding(
            aspect=probe.aspect,
            held=held,
            mechanism=_mechanism(probe.aspect, isolation),
            evidence=evidence,
            advisory=probe.advisory,
        )

    async def _run(self, executor: Executor, probe: Probe) -> Result:
        limit = getattr(LIMITS, "memory" if probe.aspect == "kernel memory" else probe.aspect, 0)
        result = await executor.run(CodeBlock(self._source(probe.program, limit)))
        if result.verdict == "lost":
            await executor.restart()
        return result

    def _source(self, program: str, limit: object = 0) -> str:
        return f"HOST = {self._canaries.description()!r}\nLIMIT = {limit!r}\n{program}"

    async def _leave_something(self, executor: Executor, isolation: Isolation) -> Finding:
        finding = await self._try(executor, KILL, isolation)
        if finding.held and not executor.keeps_state:
            inside = await executor.run(CodeBlock(self._source(STILL_THERE)))
            if "there" in inside.stdout.split() or self._canaries.survivors():
                return finding.model_copy(update={"held": False, "evidence": "a daemon survived its block"})
        return finding

    async def _next_block(self, executor: Executor) -> Finding:
        result = await executor.run(CodeBlock("print(6 * 7)"))
        held = result.verdict == "ok" and result.stdout == "42\n"
        evidence = "a block after all this works" if held else f"a block after all this ended with {result.verdict}"
        return Finding(aspect="next block", held=held, mechanism="runner", evidence=evidence)

    async def _left(self) -> list[int]:
        end = time.monotonic() + END_TIMEOUT
        while True:
            left = self._canaries.survivors()
            if not left or time.monotonic() > end:
                return left
            await asyncio.sleep(0.02)


async def _ended(task: asyncio.Task[list[Finding]]) -> None:
    if not task.done():
        task.cancel()
    with suppress(asyncio.CancelledError, SandboxError):
        await task


def _mechanism(aspect: str, isolation: Isolation) -> str:
    keys = MECHANISM.get(aspect, (aspect,))
    found = next((isolation.mechanisms[key] for key in keys if key in isolation.mechanisms), "")
    return found or "nothing"
