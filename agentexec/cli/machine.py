"""Commands about this machine: what holds code here, what is set, what was left behind, images."""

from typing import Annotated

import typer

from agentexec.cli import app
from agentexec.cli import options as o


@app.command()
def doctor(json: o.Json = False) -> None:
    """Show what really holds code on this machine.

    Each limit of each sandbox is tried. Status 1: the default sandbox is not isolated.
    """
    from agentexec.cli.doctor import doctor_command

    raise typer.Exit(doctor_command(json=json))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def config(context: typer.Context, workspace: o.Workspace = None, json: o.Json = False) -> None:
    """Show each setting and where it comes from.

    That is a default, agentexec.toml, a variable or a flag. Flags of `run` and `solve` may be given, to see what
    they would do. Status 2: a value makes no sense, or a variable or a flag is misspelt.
    """
    from agentexec.cli.config import config_command

    raise typer.Exit(config_command(context.args, workspace, json=json))


@app.command()
def clean(
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Also remove runs without an event since, e.g. 30d, 12h."),
    ] = None,
    store: o.StoreDirectory = None,
) -> None:
    """Remove what killed processes left behind.

    Containers, volumes, workspaces and control groups of processes that are gone; nothing that is in use.
    """
    from agentexec.cli.images import clean_command
    from agentexec.cli.runs import clean_runs

    removed = [] if older_than is None else [f"run {run}" for run in clean_runs(store, older_than)]
    raise typer.Exit(clean_command(removed))


images = typer.Typer(help="List and build the images of the Docker sandbox.", no_args_is_help=True)
app.add_typer(images, name="images")


@images.command("list")
def list_images() -> None:
    """List the images, and which of them are built."""
    from agentexec.cli.images import list_command

    raise typer.Exit(list_command())


@images.command("build")
def build_images(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Which [all].")] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="IMAGE", help="Debian to build from [agentexec/base if there].")
    ] = None,
) -> None:
    """Build images in the Docker engine."""
    from agentexec.cli.images import build_command

    raise typer.Exit(build_command(names or (), base))
