"""Jupyter kernels that run in any sandbox which shares a directory, and the executors by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sandboxes.executor import Executor
from sandboxes.jupyter.executor import KernelExecutor
from sandboxes.local import LocalSandbox
from sandboxes.sandbox import module_names
from sandboxes.types import Limits

__all__ = ["KernelExecutor", "jupyter_docker_executor", "jupyter_executor"]

PRELOAD = ("ipykernel.kernelapp", "IPython.core.completer")
"""What the runner has imported before it forks a kernel, so that a second one need not."""


def jupyter_executor(arg: str | None, *, limits: Limits, workspace: Path | None, **options: Any) -> Executor:
    """Entry point `jupyter`; options are those of `LocalSandbox`, and `jupyter:NAME` names another kernel."""
    return _on(LocalSandbox, arg or "", limits, workspace=workspace, **options)


def jupyter_docker_executor(arg: str | None, *, limits: Limits, workspace: Path | None, **options: Any) -> Executor:
    """Entry point `jupyter+docker`, or `jupyter+docker:IMAGE`; options are those of `DockerSandbox`, and `kernel`."""
    from sandboxes.docker import DockerSandbox

    options.setdefault("image", arg or os.environ.get("AGENTEXEC_IMAGE") or "agentexec/data")
    return _on(DockerSandbox, str(options.pop("kernel", "")), limits, workspace=workspace, **options)


def _on(sandbox: Any, kernel: str, limits: Limits, **options: Any) -> Executor:
    # Pictures come as displays; an image may have said otherwise, for blocks without a kernel.
    options["env"] = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", **(options.get("env") or {})}
    wanted = module_names(options.pop("preload", ()))
    preload = wanted if kernel else [*PRELOAD, *wanted]
    return KernelExecutor(sandbox(preload=preload, **options), limits, kernel=kernel)
