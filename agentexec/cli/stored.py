"""Commands about runs that are kept in the store; each calls one function."""

from typing import Annotated, Literal

import typer

from agentexec.cli import app
from agentexec.cli import flags as f
from agentexec.cli import options as o

Always = Annotated[bool, typer.Option("--always", help="Also for further blocks of this kind in this run.")]


@app.command()
def runs(
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="Only runs whose task or id has it.")] = None,
    status: Annotated[
        Literal["running", "waiting", "interrupted", "solved", "not_solved", "model_failed", "sandbox_failed"] | None,
        typer.Option("--status", help="Only runs in this state."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="Only runs active since: 2h, 7d, 2026-11-20.")
    ] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=0, help="The latest N; 0 for all.")] = 50,
    store: o.StoreDirectory = None,
    json: o.Json = False,
) -> None:
    """List runs, the latest last: id, state, turns, cost, task."""
    from agentexec.cli.runs import runs_command

    raise typer.Exit(runs_command(store, status=status, text=text, since=since, limit=limit, json=json))


@app.command()
def show(run: o.RunId, store: o.StoreDirectory = None) -> None:
    """Show a run: messages, blocks with verdicts and files, cost."""
    from agentexec.cli.runs import show_command

    raise typer.Exit(show_command(store, run))


@app.command()
def replay(
    run: o.RunId,
    speed: Annotated[float, typer.Option("--speed", metavar="X", help="2 is twice as fast; inf does not wait.")] = 1.0,
    store: o.StoreDirectory = None,
) -> None:
    """Show a run as it was shown. Pauses are at most 5 seconds."""
    from agentexec.cli.runs import replay_command

    raise typer.Exit(replay_command(store, run, speed))


@app.command()
@f.takes(f.MODEL, f.SANDBOX, f.BOUNDS, f.HUMAN, f.MODELS, f.LIMITS)
def resume(
    run: o.RunId,
    workspace: o.Workspace = None,
    flags: f.Flags = f.NONE,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="AGENT=FILE", help="Another system prompt, e.g. coder=FILE; repeatable."),
    ] = None,
    store: o.StoreDirectory = None,
    json: o.Json = False,
) -> None:
    """Go on with a run where it ended.

    It is set up as it was; options change that from here on. What counted so far counts: turns, tokens, cost, and the
    time in which it ran. Output and status are as those of 'agentexec solve'.
    """
    from agentexec.cli.resume import resume_command

    directory = o.workspace_directory(workspace)
    raise typer.Exit(resume_command(store, run, flags, workspace=directory, prompts=prompt or (), json=json))


@app.command()
def branch(
    run: o.RunId,
    at: Annotated[
        int | None, typer.Option("--at", metavar="N", min=0, help="The last turn that both share [all].")
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", metavar="TEXT", help="Takes the place of message N (0 is the task).")
    ] = None,
    store: o.StoreDirectory = None,
) -> None:
    """Begin another run with the first turns of a run. Prints its id; 'resume' runs on from there."""
    from agentexec.cli.runs import branch_command

    raise typer.Exit(branch_command(store, run, at, message))


@app.command()
def approve(
    run: o.RunId,
    edit: Annotated[
        str | None,
        typer.Option("--edit", metavar="FILE|-", help="Go on with this file's text instead; - is stdin."),
    ] = None,
    always: Always = False,
    store: o.StoreDirectory = None,
) -> None:
    """Say yes to what a run waits for."""
    from agentexec.cli.resume import answer_command, read_edit

    raise typer.Exit(answer_command(store, run, read_edit(edit).model_copy(update={"always": always})))


@app.command()
def reject(
    run: o.RunId,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Told to the coder.")] = "",
    always: Always = False,
    store: o.StoreDirectory = None,
) -> None:
    """Say no to what a run waits for."""
    from agentexec.cli.resume import answer_command
    from agentexec.events import Answer

    answer = Answer(decision="reject", text=reason or "the user said no", always=always)
    raise typer.Exit(answer_command(store, run, answer))


@app.command()
def reply(
    run: o.RunId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say.")],
    store: o.StoreDirectory = None,
) -> None:
    """Say something to a run that waits.

    That is what it asks for, or what stands for a block's result.
    """
    from agentexec.cli.resume import reply_command

    raise typer.Exit(reply_command(store, run, text))


@app.command()
def export(
    run: o.RunId,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Events, one a line.")] = False,
    md: Annotated[bool, typer.Option("--md", help="Markdown.")] = False,
    ipynb: Annotated[bool, typer.Option("--ipynb", help="A Jupyter notebook.")] = False,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="File to write [stdout]; its ending will do.")
    ] = None,
    store: o.StoreDirectory = None,
) -> None:
    """Write a run in another form."""
    from agentexec.cli.runs import export_command

    chosen = [name for name, given in (("jsonl", jsonl), ("md", md), ("ipynb", ipynb)) if given]
    if len(chosen) > 1:
        o.fail("one of --jsonl, --md and --ipynb at a time", o.USAGE)
    raise typer.Exit(export_command(store, run, chosen[0] if chosen else None, output))


@app.command()
def diff(
    run: o.RunId,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The run to compare it with.")],
    store: o.StoreDirectory = None,
) -> None:
    """Show how two runs differ. Status 0: not at all; 1: they do."""
    from agentexec.cli.runs import diff_command

    raise typer.Exit(diff_command(store, run, other))


@app.command()
def rm(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids, their beginnings or their ends.")],
    store: o.StoreDirectory = None,
) -> None:
    """Remove runs, with all that is kept of them.

    Those are their events, and workspaces that were made for them; what you named with --workspace stays.
    """
    from agentexec.cli.runs import rm_command

    raise typer.Exit(rm_command(store, runs))
