"""Flags that are settings: one list, of which `run`, `solve` and `resume` take their parts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import typer

from agentexec.cli.completing import complete_sandboxes
from agentexec.defaults import MAX_TURNS

Flags = Mapping[str, Any]
"""Setting to the value of its flag, None where that was not given."""

NONE: Flags = MappingProxyType({})
"""The default of the parameter `flags` of a command that `takes` some."""


def _flag(kind: Any, metavar: str | None, text: str, *names: str, complete: Any = None) -> Any:
    return Annotated[kind | None, typer.Option(*names, metavar=metavar, help=text, autocompletion=complete)]


SANDBOX: Flags = {
    "sandbox": _flag(
        str,
        "SPEC",
        "Where code runs: local, docker, docker:IMAGE, jupyter, … [local].",
        "-s",
        "--sandbox",
        complete=complete_sandboxes,
    ),
    "isolation": _flag(
        Literal["auto", "bwrap", "landlock", "none"], None, "Isolation of the local sandbox [auto]; 'none' is unsafe."
    ),
}
LIMITS: Flags = {
    "timeout": _flag(float, "S", "Wall-clock seconds of a block [60]."),
    "cpu_time": _flag(float, "S", "CPU seconds of a block."),
    "memory": _flag(str, "SIZE", "Memory of a block, e.g. 512M [1G]."),
    "processes": _flag(int, "N", "Processes and threads of a block [128]."),
    "disk": _flag(str, "SIZE", "What the workspace may hold [1G]."),
    "file_size": _flag(str, "SIZE", "Size of any one file [256M]."),
    "open_files": _flag(int, "N", "Open files of a process [1024]."),
    "output": _flag(str, "SIZE", "What is kept of stdout and of stderr [1M]."),
    "network": _flag(Literal["off", "on"], None, "Whether code reaches a network [off]."),
}
BOUNDS: Flags = {
    "max_turns": _flag(int, "N", f"Stop after so many turns [{MAX_TURNS}]."),
    "max_tokens": _flag(int, "N", "Stop after so many tokens."),
    "max_cost": _flag(str, "USD", "Stop when so much is spent."),
    "deadline": _flag(float, "S", "Stop after so many seconds."),
}
HUMAN: Flags = {
    "approve": _flag(
        Literal["never", "always", "risky"],
        None,
        "Before which blocks you are asked [never]; risky is a guess, no protection.",
    ),
    "answer_timeout": _flag(float, "S", "Seconds you have for an answer [3600]."),
}
MODEL: Flags = {"model": _flag(str, "MODEL", "Model, responses:MODEL, or replay:FILE.", "-m", "--model")}
MODELS: Flags = {
    "planner_model": _flag(str, "MODEL", "Model of the planner [--model]."),
    "coder_model": _flag(str, "MODEL", "Model of the coder [--model]."),
    "reviewer_model": _flag(str, "MODEL", "Model of the reviewer [--model]."),
    "fallback_model": _flag(str, "MODEL", "Asked where the model fails."),
    "model_retries": _flag(int, "N", "How often a failed call is tried again [4]."),
    "model_timeout": _flag(float, "S", "Seconds a server may stay silent [300]."),
    "requests_per_minute": _flag(float, "N", "Ask models so often at most."),
    "tokens_per_minute": _flag(float, "N", "Let models use so many tokens at most."),
    "cache": _flag(str, "DIR", "Keep models' answers there; ask nothing twice."),
    "context_window": _flag(int, "N", "Tokens of a model's window [by the price list]."),
    "code_mode": _flag(Literal["fences", "tools"], None, "Whether code comes in Markdown or tool calls [fences]."),
    "images": _flag(Literal["auto", "off"], None, "Whether models see pictures that code shows [auto]."),
}


def takes(*groups: Flags) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of some groups, where it has a parameter `flags` for their values."""
    options = {name: option for group in groups for name, option in group.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**values: Any) -> None:
            flags = {name: values.pop(name) for name in options}
            command(**values, flags=flags)

        parameters: list[inspect.Parameter] = []
        for own in inspect.signature(command, eval_str=True).parameters.values():
            shown = [(own.name, own.annotation, own.default)]
            if own.name == "flags":
                shown = [(name, option, None) for name, option in options.items()]
            parameters += [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
                for name, kind, default in shown
            ]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return called

    return decorate
