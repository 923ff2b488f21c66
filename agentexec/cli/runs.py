"""What the store holds: `agentexec runs`, `show`, `replay`, `export`, `diff`, `branch`, `rm`, `clean --older-than`."""

from __future__ import annotations

import json as jsons
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from agentexec.cli.options import STORE_FAILED, USAGE, fail
from agentexec.cli.output import CannotWrite, say, write_stdout
from agentexec.errors import NotAsked, RunBusy, RunNotFound, StoreError, StoreUnavailable
from agentexec.store import RunSummary, Store
from agentexec.visible import visible

SEARCH_MARKS = ("search", "candidate")
"""What the settings of a kept run tell of the search that it is a candidate of."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@contextmanager
def opened(path: str | None, *, create: bool = False) -> Iterator[Store]:
    """Open the store for a command; errors of it end the command."""
    try:
        with Store(path, create=create) as store:
            yield store
    except StoreError as error:
        fail_store(error)


def fail_store(error: StoreError) -> NoReturn:
    """End the command with what is wrong with the store."""
    fail(str(error), USAGE if isinstance(error, RunNotFound | NotAsked) else STORE_FAILED)


def runs_command(
    path: str | None, *, status: str | None, text: str | None, since: str | None, limit: int, json: bool
) -> int:
    """List runs, the latest last."""
    moment = None if since is None else moment_of(since, "--since")
    try:
        with Store(path, create=False) as store:
            found = store.runs(status=status, text=text, since=moment, limit=limit or None)
    except StoreUnavailable as error:
        if "no run has been kept" not in str(error):
            fail_store(error)
        found = []
        if not json:
            say(str(error))
    except StoreError as error:
        fail_store(error)
    if json:
        return _write(jsons.dumps([run.as_json() for run in found]))
    width = shutil.get_terminal_size((120, 24)).columns
    return _write("\n".join(_line(run, width) for run in found)) if found else 0


def _line(run: RunSummary, width: int) -> str:
    """Return one line of the list: id, state, turns, cost, task."""
    cost = "-" if run.cost is None else f"${run.cost:.2f}"
    head = f"{run.run_id}  {run.status:<14} {run.turns:>4}  {cost:>7}  "
    task = _origin(run) + (" ".join(run.task.split()) or "-")
    room = max(20, width - len(head))
    # Ids and states are ours; a task may hold anything.
    shown = visible(task, keep="")
    return head + (shown if len(shown) <= room else f"{shown[: room - 1]}…")


def _origin(run: RunSummary) -> str:
    """Return what a run belongs to, by the ends of ids; nothing for most."""
    if run.parent is not None:
        return f"(branch of {run.parent[-9:]}) "
    if "search" in run.settings:
        return f"(candidate {run.settings.get('candidate')} of {str(run.settings['search'])[-9:]}) "
    return ""


def moment_of(text: str, option: str) -> float:
    """Return the time that an age (`90m`, `12h`, `30d`, `2w`) or a date (`2026-11-20`, `2026-11-20T12:00`) means."""
    if match := re.fullmatch(r"(\d{1,6})([smhdw])", text.strip()):
        return time.time() - int(match[1]) * _UNITS[match[2]]
    from datetime import datetime

    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        fail(f"{option} {text}: write an age such as 90m, 12h, 30d, 2w, or a date such as 2026-11-20", USAGE)


def show_command(path: str | None, run: str) -> int:
    """Print a run as a transcript."""
    from agentexec.transcript import WIDTH, transcript_of

    with opened(path) as store:
        summary = store.find(run)
        events = store.events(summary.run_id)
        waiting = store.answers(summary.run_id)
    width = max(20, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)) if sys.stdout.isatty() else WIDTH
    lines = [*header_of(summary), *transcript_of(events, width=width)]
    if waiting:
        lines.append(f"{len(waiting)} answer(s) wait for 'agentexec resume {summary.run_id}'")
    return _write("\n".join(lines))


def header_of(run: RunSummary) -> list[str]:
    """Return what is known of a run in a few lines."""
    from agentexec.transcript import moment, price

    tokens = "tokens unknown" if run.tokens is None else f"{run.tokens:,} tokens"
    shown = {
        "run": run.run_id,
        "status": f"{run.status}{f' ({run.stop_reason})' if run.stop_reason else ''}",
        # The events that a branch shares came before it began.
        "began": f"{moment(run.began)}, last event {moment(max(run.began, run.updated))}",
        "model": run.model,
        "sandbox": run.executor,
        "workspace": run.workspace or "-",
        "used": f"{_count(run.turns, 'turn')} · {_count(run.blocks, 'block')} · {tokens} · {price(run.cost)}",
    }
    if run.parent:
        shown["branch of"] = f"{run.parent}, after event {run.base}"
    return [f"{name:<10} {visible(value, keep='')}" for name, value in shown.items()]


def _count(number: int | None, what: str) -> str:
    return f"{'?' if number is None else number} {what}{'' if number == 1 else 's'}"


def replay_command(path: str | None, run: str, speed: float) -> int:
    """Show a run as it was shown when it ran."""
    from agentexec.cli.view import make_view
    from agentexec.playback import playback

    if not speed > 0:
        fail(f"--speed {speed}: it must be more than 0; inf does not wait", USAGE)
    with opened(path) as store:
        events = store.events(store.find(run).run_id)
    try:
        with make_view(sys.stdout) as view:
            for seconds, event in playback(events, speed=speed):
                time.sleep(seconds)
                view(event)
    except BrokenPipeError:
        return CannotWrite(BrokenPipeError()).status
    return 0


def export_command(path: str | None, run: str, kind: str | None, output: str | None) -> int:
    """Write a run in another form, by the option or by the file's ending."""
    endings = {".jsonl": "jsonl", ".md": "md", ".ipynb": "ipynb"}
    if kind is None:
        suffix = Path(output or "x.jsonl").suffix
        if suffix not in endings:
            fail(f"-o {output}: say which form: --jsonl, --md or --ipynb", USAGE)
        kind = endings[suffix]
    with opened(path) as store:
        run_id = store.find(run).run_id
        text = _exported(store, run_id, kind)
    if output is None:
        return _write(text)
    try:
        _write_file(Path(output), text + "\n")
    except OSError as error:
        fail(f"-o {output}: {error.strerror}", USAGE)
    return 0


def _write_file(path: Path, text: str) -> None:
    """Write a file whole or not at all; what was there before stays until then."""
    if path.exists() and not path.is_file():  # a pipe or a device
        path.write_text(text, encoding="utf-8")
        return
    path = path.resolve()  # through a link, what it leads to
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _exported(store: Store, run_id: str, kind: str) -> str:
    if kind == "jsonl":
        return "\n".join(store.event_texts(run_id))
    events = store.events(run_id)
    if kind == "md":
        from agentexec.transcript import markdown_of

        return markdown_of(events).rstrip("\n")
    from agentexec.notebook import notebook_of

    return str(jsons.dumps(notebook_of(events), indent=1, ensure_ascii=False))


def diff_command(path: str | None, one: str, other: str) -> int:
    """Print how two runs differ: 0 if in nothing, 1 if in something, as diff(1) does."""
    from agentexec.comparing import compare

    with opened(path) as store:
        sides = [(run, store.events(run.run_id)) for run in (store.find(one), store.find(other))]
    lines = list(compare(*sides[0], *sides[1]))
    if not lines:
        return 0
    return _write("\n".join(lines)) or 1


def branch_command(path: str | None, run: str, at: int | None, message: str | None) -> int:
    """Make a branch and print its id."""
    from agentexec.branching import branch

    with opened(path) as store:
        try:
            new = branch(store, store.find(run).run_id, at, message)
        except ValueError as error:
            fail(str(error), USAGE)
    say(f"type 'agentexec resume {new}' to run on from there")
    return _write(new)


def rm_command(path: str | None, runs: Sequence[str]) -> int:
    """Remove runs, with workspaces that the store had made for them."""
    with opened(path) as store:
        # The latest first: branches before what they branched off.
        for run_id in sorted({store.find(run).run_id for run in runs}, reverse=True):
            remove(store, run_id)
        _collect(store)
    return 0


def remove(store: Store, run_id: str) -> None:
    """Remove a run and the workspace that the store had made for it."""
    from agentexec.workspaces import remove_workspace

    # The run last: what is left of an interrupted removal would have no name any more.
    store.remove(run_id, first=lambda: remove_workspace(store, run_id))


def _collect(store: Store) -> None:
    from agentexec.errors import SnapshotError
    from agentexec.workspaces import collect_snapshots

    try:
        collect_snapshots(store)
    except SnapshotError as error:
        say(str(error))


def clean_runs(path: str | None, older_than: str) -> list[str]:
    """Remove runs whose last event is older; return their ids. Those that others branched off stay."""
    before = moment_of(older_than, "--older-than")
    removed = []
    try:
        with Store(path, create=False) as store:
            for run in reversed(store.runs(before=before)):
                try:
                    remove(store, run.run_id)
                    removed.append(run.run_id)
                except (RunBusy, RunNotFound):
                    continue
                except StoreError as error:
                    if "branched off" not in str(error):
                        raise
            _collect(store)
    except StoreUnavailable as error:
        if "no run has been kept" not in str(error):
            fail_store(error)
    except StoreError as error:
        fail_store(error)
    return removed


def _write(text: str) -> int:
    try:
        write_stdout(text)
    except CannotWrite as error:
        if not error.quiet:
            say(str(error))
        return error.status
    return 0
