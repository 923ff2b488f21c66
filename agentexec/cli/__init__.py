"""The `agentexec` command. What a command needs is imported when it runs, so that each starts fast."""

import atexit
import gc
import os
import sys
from typing import Annotated, Literal

import typer

from agentexec.cli import options as o
from agentexec.cli.completing import complete_languages
from agentexec.cli.output import open_standard_streams
from agentexec.cli.signals import INTERRUPTED, ignore_signals


def _completes() -> bool:
    """Whether this process completes a command line for a shell, or helps to set that up."""
    asked = sys.argv[1:2]
    return "_AGENTEXEC_COMPLETE" in os.environ or not asked or asked[0] == "--help" or asked[0].endswith("-completion")


app = typer.Typer(
    name="agentexec",
    help="A computer for language models that cannot hurt you.",
    no_args_is_help=True,
    # For a command that completes nothing it would be work for nothing.
    add_completion=_completes(),
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line; the console script `agentexec`."""
    # The modules loaded so far stay to the end, and nobody waits for the collector to look through them again: a
    # seventh of the time of a short command is spent in that when the interpreter ends.
    gc.freeze()
    atexit.register(gc.freeze)
    open_standard_streams()
    try:
        app(prog_name="agentexec")
    except KeyboardInterrupt:
        ignore_signals()
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            ignore_signals()
        raise


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"agentexec {version('agentexec-toolkit')}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


images = typer.Typer(help="The images for the Docker sandbox.", no_args_is_help=True)
app.add_typer(images, name="images")


@images.command("list")
def list_images() -> None:
    """List the images, and which of them are built."""
    from agentexec.cli.images import list_command

    raise typer.Exit(list_command())


@images.command("build")
def build_images(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Which; all by default.")] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="IMAGE", help="Debian to build from [agentexec/base if there].")
    ] = None,
) -> None:
    """Build images in the Docker engine."""
    from agentexec.cli.images import build_command

    raise typer.Exit(build_command(names or (), base))


@app.command()
def clean(
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Also remove runs without an event since, e.g. 30d, 12h."),
    ] = None,
    store: o.StoreDirectory = None,
) -> None:
    """Remove what killed processes left behind: containers, volumes, workspaces, control groups."""
    from agentexec.cli.images import clean_command
    from agentexec.cli.runs import clean_runs

    removed = [] if older_than is None else [f"run {run}" for run in clean_runs(store, older_than)]
    raise typer.Exit(clean_command(removed))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def config(context: typer.Context, workspace: o.Workspace = None, json: o.Json = False) -> None:
    """Show each setting and where it comes from: a default, agentexec.toml, a variable or a flag.

    Flags of `run` and `solve` may be given, to see what they would do. Status 2: a value makes no sense, or a
    variable or a flag is misspelt.
    """
    from agentexec.cli.config import config_command

    raise typer.Exit(config_command(context.args, workspace, json=json))


@app.command()
def doctor(json: o.Json = False) -> None:
    """Show what really holds code on this machine: each limit of each sandbox is tried.

    Status 1: the default sandbox is not isolated.
    """
    from agentexec.cli.doctor import doctor_command

    raise typer.Exit(doctor_command(json=json))


@app.command()
def run(
    file: Annotated[str | None, typer.Argument(metavar="FILE|-", help="Program; - is stdin.")] = None,
    language: Annotated[
        str | None,
        typer.Option(
            "-l",
            "--language",
            metavar="LANG",
            help="Language [by the file's ending; python].",
            autocompletion=complete_languages,
        ),
    ] = None,
    sandbox: o.Sandbox = None,
    timeout: o.Timeout = None,
    cpu_time: o.CpuTime = None,
    memory: o.Memory = None,
    processes: o.Processes = None,
    disk: o.Disk = None,
    file_size: o.FileSize = None,
    open_files: o.OpenFiles = None,
    output: o.Output = None,
    network: o.Network = None,
    workspace: o.Workspace = None,
    isolation: o.IsolationTier = None,
    json: o.Json = False,
) -> None:
    """Run a program in a sandbox.

    Its output and exit status are passed on. Status 124: out of time; 137: out of memory or disk; 125: the
    sandbox failed; 2: wrong usage; 128+N: ended by signal N; 130: interrupted.
    """
    from agentexec.cli.run import run_command

    flags = {
        "sandbox": sandbox,
        "timeout": timeout,
        "cpu_time": cpu_time,
        "memory": memory,
        "processes": processes,
        "disk": disk,
        "file_size": file_size,
        "open_files": open_files,
        "output": output,
        "network": network,
        "isolation": isolation,
    }
    raise typer.Exit(run_command(file, language, flags, o.workspace_directory(workspace), json=json))


@app.command()
def solve(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What to do, in plain words.")],
    model: Annotated[
        str | None,
        typer.Option("-m", "--model", metavar="MODEL", help="Model, responses:MODEL, or replay:FILE."),
    ] = None,
    sandbox: o.Sandbox = None,
    timeout: o.Timeout = None,
    cpu_time: o.CpuTime = None,
    memory: o.Memory = None,
    processes: o.Processes = None,
    disk: o.Disk = None,
    file_size: o.FileSize = None,
    open_files: o.OpenFiles = None,
    output: o.Output = None,
    network: o.Network = None,
    isolation: o.IsolationTier = None,
    file: Annotated[
        list[str] | None, typer.Option("--file", metavar="PATH", help="Input file to copy in; repeatable.")
    ] = None,
    workspace: o.Workspace = None,
    max_turns: Annotated[
        int | None, typer.Option("--max-turns", metavar="N", help="Stop after so many turns [50].")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", metavar="N", help="Stop after so many tokens.")
    ] = None,
    max_cost: Annotated[
        str | None, typer.Option("--max-cost", metavar="USD", help="Stop when so much is spent.")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option("--deadline", metavar="S", help="Stop after so many seconds.")
    ] = None,
    approve: Annotated[
        Literal["never", "always", "risky"] | None,
        typer.Option("--approve", help="Before which blocks you are asked [never]; risky is a guess, no protection."),
    ] = None,
    review_plan: Annotated[bool, typer.Option("--review-plan", help="You approve, edit or reject the plan.")] = False,
    answer_timeout: Annotated[
        float | None, typer.Option("--answer-timeout", metavar="S", help="Seconds you have for an answer [3600].")
    ] = None,
    images: Annotated[
        Literal["auto", "off"] | None,
        typer.Option("--images", help="Whether the model is sent pictures that code shows [auto]."),
    ] = None,
    planner_model: o.PlannerModel = None,
    coder_model: o.CoderModel = None,
    reviewer_model: o.ReviewerModel = None,
    code_mode: o.CodeMode = None,
    context_window: o.ContextWindow = None,
    team: Annotated[
        str | None, typer.Option("--team", metavar="FILE", help="A team as TOML or JSON, in place of the usual one.")
    ] = None,
    no_plan: Annotated[bool, typer.Option("--no-plan", help="Start without a planner.")] = False,
    no_review: Annotated[bool, typer.Option("--no-review", help="Go without a reviewer.")] = False,
    record: Annotated[
        str | None, typer.Option("--record", metavar="FILE", help="Write the run for -m replay:FILE.")
    ] = None,
    store: o.StoreDirectory = None,
    no_store: Annotated[bool, typer.Option("--no-store", help="Keep nothing of the run.")] = False,
    best_of: Annotated[
        int | None, typer.Option("--best-of", metavar="N", help="Solve it N times side by side; keep the best.")
    ] = None,
    check: Annotated[
        str | None,
        typer.Option("--check", metavar="CMD", help="Runs in each one's sandbox: status 0 passes; last line: score."),
    ] = None,
    target: Annotated[
        float | None, typer.Option("--target", metavar="SCORE", help="Stop all when one scores so much [1].")
    ] = None,
    json: o.Json = False,
) -> None:
    """Let a team of agents solve a task by writing and running code.

    The answer goes to stdout, everything else to stderr. Status 0: solved; 1: not solved; 2: wrong usage;
    3: the model failed; 4: a person has to answer first; 5: the store failed; 125: the sandbox failed;
    130: interrupted. All but a solved run can go on: type 'agentexec resume RUN'.
    """
    from agentexec.cli.solve import Request, solve_command

    flags = {
        "model": model,
        "sandbox": sandbox,
        "timeout": timeout,
        "cpu_time": cpu_time,
        "memory": memory,
        "processes": processes,
        "disk": disk,
        "file_size": file_size,
        "open_files": open_files,
        "output": output,
        "network": network,
        "isolation": isolation,
        "max_turns": max_turns,
        "max_tokens": max_tokens,
        "max_cost": max_cost,
        "deadline": deadline,
        "approve": approve,
        "images": images,
        "review_plan": review_plan or None,
        "answer_timeout": answer_timeout,
        "planner_model": planner_model,
        "coder_model": coder_model,
        "reviewer_model": reviewer_model,
        "code_mode": code_mode,
        "context_window": context_window,
        "team": os.path.abspath(team) if team else None,
        "plan": False if no_plan else None,
        "review": False if no_review else None,
        "store": store,
    }
    request = Request(task, tuple(file or ()), o.workspace_directory(workspace), record, json, keep=not no_store)
    if best_of is not None or check is not None or target is not None:
        from agentexec.cli.best import best_command, read_contest

        raise typer.Exit(best_command(request, flags, read_contest(best_of, check, target)))
    raise typer.Exit(solve_command(request, flags))


from agentexec.cli import stored as stored  # noqa: E402 - further commands, which need `app`
