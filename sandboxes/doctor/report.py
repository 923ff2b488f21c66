"""The values of a diagnosis. Their names are stable: `agentexec doctor --json` prints them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, computed_field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(_Frozen):
    """One thing that was tried.

    Attributes:
        aspect: A limit (`memory`), or what else is to hold (`filesystem`).
        held: Whether it held.
        mechanism: What enforces it, in the words of `Isolation`; `nothing` where it claims nothing.
        evidence: What came of the attempt.
        advisory: Whether the sandbox counts as isolated without it.
    """

    aspect: str
    held: bool
    mechanism: str
    evidence: str
    advisory: bool = False


class BackendReport(_Frozen):
    """What one backend does here.

    Attributes:
        name: E.g. `local+bwrap`, `docker`.
        available: Whether a sandbox came up.
        reason: Why not, and what to type.
        tier: As `Isolation.tier` has it; empty if none came up.
        findings: What was tried, in the order of the table.
        seconds: How long all that took.
    """

    name: str
    available: bool
    reason: str = ""
    tier: str = ""
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def isolated(self) -> bool:
        """Whether everything that has to hold has held."""
        return self.available and bool(self.findings) and all(each.held or each.advisory for each in self.findings)


class Machine(_Frozen):
    """Where this is.

    Attributes:
        system: E.g. `Linux 6.18 x86_64`.
        user: Name or number of the user.
        container: `docker`, `podman`, … or empty.
        wsl: 1 or 2 in the Windows Subsystem for Linux, else 0.
        landlock: ABI version of Landlock, 0 if the kernel has none.
        control_groups: Version of the hierarchy that groups can be made in, 0 for none.
    """

    system: str
    user: str
    container: str
    wsl: int
    landlock: int
    control_groups: int


class Diagnosis(_Frozen):
    """What `diagnose` found.

    Attributes:
        machine: Where this is.
        default: Name of the backend that `local` comes to here; empty if it refuses to work.
        reason: Why it refuses.
        backends: One report each.
        advice: What to type to improve it.
    """

    machine: Machine
    default: str
    reason: str
    backends: tuple[BackendReport, ...]
    advice: tuple[str, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def isolated(self) -> bool:
        """Whether the default sandbox is isolated."""
        return any(each.name == self.default and each.isolated for each in self.backends)
