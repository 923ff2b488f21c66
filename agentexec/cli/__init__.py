"""The `agentexec` command. What a command needs is imported when it runs, so that each starts fast."""

import atexit
import errno
import gc
import os
import sys
from typing import Annotated

import typer

from agentexec.cli import flags as f
from agentexec.cli import options as o
from agentexec.cli.completing import complete_languages
from agentexec.cli.naming import Commands
from agentexec.cli.output import CannotWrite, abandon_stdout, open_standard_streams, say, write_stdout
from agentexec.cli.signals import INTERRUPTED, ignore_signals


def _completes() -> bool:
    """Whether this process completes a command line for a shell, or helps to set that up."""
    asked = sys.argv[1:2]
    return (
        "_AGENTEXEC_COMPLETE" in os.environ
        or not asked
        or asked[0] in ("-h", "--help")
        or asked[0].endswith("-completion")
    )


app = typer.Typer(
    name="agentexec",
    help="A computer for language models that cannot hurt you.",
    no_args_is_help=True,
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    # For a command that completes nothing it would be work for nothing.
    add_completion=_completes(),
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line."""
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
    except CannotWrite as error:
        if not error.quiet:
            say(str(error))
        sys.exit(error.status)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        say(f"cannot write {error.filename or 'the output'}: {error.strerror}")
        abandon_stdout()
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            ignore_signals()
        raise


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        write_stdout(f"agentexec {version('agentexec-toolkit')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
@f.takes(f.SANDBOX, f.LIMITS)
def run(
    file: Annotated[str | None, typer.Argument(metavar="FILE|-", help="Program [-, which is stdin].")] = None,
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
    flags: f.Flags = f.NONE,
    workspace: o.Workspace = None,
    json: o.Json = False,
) -> None:
    """Run a program or a notebook (.ipynb) in a sandbox.

    A program's output and exit status are passed on. It gets no arguments and no standard input; its files come
    with --workspace. A notebook is written back with its outputs.

    Status 124: out of time; 137: out of memory or disk; 125: the sandbox failed; 2: wrong usage; 128+N: ended by
    signal N; 130: interrupted.
    """
    from agentexec.cli.run import run_command

    raise typer.Exit(run_command(file, language, flags, o.workspace_directory(workspace), json=json))


@app.command()
@f.takes(f.MODEL, f.SANDBOX, f.BOUNDS, f.HUMAN, f.MODELS, f.LIMITS)
def solve(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What to do, in plain words.")],
    file: Annotated[
        list[str] | None, typer.Option("--file", metavar="PATH", help="Input file to copy in; repeatable.")
    ] = None,
    workspace: o.Workspace = None,
    flags: f.Flags = f.NONE,
    review_plan: Annotated[bool, typer.Option("--review-plan", help="You approve, edit or reject the plan.")] = False,
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
        **flags,
        "review_plan": review_plan or None,
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


# Further commands, which need `app`, in the order in which help lists them.
from agentexec.cli import stored as stored  # noqa: E402  # isort: skip
from agentexec.cli import machine as machine  # noqa: E402  # isort: skip
