"""`agentexec doctor`: what really holds code on this machine, tried and shown."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentexec.cli.output import CannotWrite, say, write_stdout
from agentexec.cli.signals import INTERRUPTED, interrupts
from agentexec.visible import visible
from sandboxes.doctor import BackendReport, Diagnosis, Finding, diagnose

WIDTH = 80
HEADINGS = {
    "local+bwrap": "bwrap",
    "local+landlock": "land-\nlock",
    "local+none": "none",
    "docker": "docker",
    "jupyter": "jupyter",
    "jupyter+docker": "jupyter\n+docker",
}
HELD, NOT_HELD, NOT_THERE = Text("yes", "green"), Text("NO", "bold red"), Text("-", "dim")


def doctor_command(*, json: bool) -> int:
    """Examine this machine; return 0 if the default sandbox is isolated, else 1."""
    diagnosis = asyncio.run(_diagnosis())
    if diagnosis is None:
        return INTERRUPTED
    try:
        write_stdout(diagnosis.model_dump_json(indent=2) if json else render(diagnosis, colour=os.isatty(1)))
    except CannotWrite as error:
        if not error.quiet:
            say(str(error))
        return error.status
    return 0 if diagnosis.isolated else 1


async def _diagnosis() -> Diagnosis | None:
    """Examine this machine; None if a signal came."""
    with interrupts() as signals:
        try:
            return await diagnose()
        except asyncio.CancelledError:
            if not signals:
                raise
            return None


def render(diagnosis: Diagnosis, *, colour: bool) -> str:
    """Return a diagnosis as text for people."""
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns) if colour else WIDTH
    console = Console(
        file=io.StringIO(),
        width=max(width, 60),
        force_terminal=colour,
        color_system="standard" if colour and "NO_COLOR" not in os.environ else None,
        highlight=False,
    )
    machine = diagnosis.machine
    place = "".join(
        [
            f", in a container ({machine.container})" if machine.container else "",
            f", WSL {machine.wsl}" if machine.wsl else "",
        ]
    )
    console.print(_text(f"{machine.system}, user {machine.user}{place}"))
    console.print(_overview(diagnosis))
    console.print("Each was tried just now, with small limits. By what it is held:", style="dim")
    for reports in _by_mechanism(diagnosis.backends):
        console.print()
        console.print(_text(", ".join(report.name for report in reports), "bold"))
        console.print(_mechanisms(reports))
    _print_problems(console, diagnosis)
    console.print()
    console.print(_conclusion(diagnosis))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().rstrip().split("\n"))


def _text(words: str, style: str = "") -> Text:
    """Return words that may come from a sandbox, harmless on a terminal."""
    return Text(visible(words, keep=""), style)


def _overview(diagnosis: Diagnosis) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold", show_edge=False)
    table.add_column("")
    for report in diagnosis.backends:
        star = "*" if report.name == diagnosis.default else ""
        table.add_column(HEADINGS.get(report.name, report.name) + star, justify="center")
    for aspect in dict.fromkeys(each.aspect for report in diagnosis.backends for each in report.findings):
        table.add_row(aspect.replace("_", " "), *(_mark(_finding(report, aspect)) for report in diagnosis.backends))
    return table


def _finding(report: BackendReport, aspect: str) -> Finding | None:
    return next((each for each in report.findings if each.aspect == aspect), None)


def _mark(finding: Finding | None) -> Text:
    if finding is None:
        return NOT_THERE
    if not finding.held and finding.advisory:
        return Text("no", "yellow")
    return HELD if finding.held else NOT_HELD


def _by_mechanism(reports: Sequence[BackendReport]) -> Iterable[list[BackendReport]]:
    """Return backends that do it in the same way together."""
    groups: dict[tuple[tuple[str, str], ...], list[BackendReport]] = {}
    for report in reports:
        if report.available:
            groups.setdefault(tuple((each.aspect, each.mechanism) for each in report.findings), []).append(report)
    return groups.values()


def _mechanisms(reports: Sequence[BackendReport]) -> Table:
    """Aspects that are held by the same, on one line."""
    held = {each.aspect for report in reports for each in report.findings if each.held}
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=False)
    table.add_column(ratio=1)
    table.add_column(ratio=1)
    by: dict[str, list[str]] = {}
    for each in reports[0].findings:
        by.setdefault(each.mechanism if each.aspect in held else "nothing", []).append(each.aspect.replace("_", " "))
    for mechanism, aspects in by.items():
        table.add_row(_text(mechanism), Text(", ".join(aspects), "dim"))
    return table


def _print_problems(console: Console, diagnosis: Diagnosis) -> None:
    lines = [
        (f"{report.name}: {finding.aspect.replace('_', ' ')}: {finding.evidence}", finding.advisory)
        for report in diagnosis.backends
        for finding in report.findings
        if not finding.held and report.name != "local+none"
    ]
    if lines:
        console.print()
        console.print("Not held", style="bold")
    for line, advisory in lines:
        console.print(_text(f"- {line}", "yellow" if advisory else "red"))
    missing = [report for report in diagnosis.backends if not report.available]
    if missing:
        console.print()
        console.print("Not available", style="bold")
    for report in missing:
        console.print(_text(f"- {report.name}: {report.reason}"))
    told = {report.reason for report in missing} | {f"{report.name}: {report.reason}" for report in missing}
    more = [line for line in diagnosis.advice if line not in told]
    if more:
        console.print()
        console.print("What to type", style="bold")
    for line in more:
        console.print(_text(f"- {line}"))


def _conclusion(diagnosis: Diagnosis) -> Text:
    if not diagnosis.default:
        return _text(f"The default sandbox refuses to work here: {diagnosis.reason}", "bold red")
    if diagnosis.isolated:
        return _text(f"* The default sandbox is {diagnosis.default}. It is isolated.", "bold green")
    return _text(f"* The default sandbox is {diagnosis.default}. It is NOT isolated.", "bold red")
