"""One direction: `agentexec` may use `sandboxes`, never the other way round; the runner uses nothing but Python."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (level, module) of every import in a file, those inside functions and conditions included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("path", modules("sandboxes"), ids=lambda path: str(path.relative_to(ROOT)))
def test_sandboxes_never_imports_agentexec(path: Path) -> None:
    assert not [name for _, name in imports(path) if name.partition(".")[0] == "agentexec"]


def test_backends_import_their_engines_only_in_their_own_module() -> None:
    own = {
        "docker": "docker",
        "requests": "docker",
        "jupyter_client": "jupyter",
        "zmq": "jupyter",
        "pytest": "conformance",
    }
    for path in modules("sandboxes"):
        for _, name in imports(path):
            engine = name.partition(".")[0]
            assert own.get(engine, path.stem) in (path.stem, path.parent.name), f"{path} imports {engine}"


@pytest.mark.parametrize(
    "path",
    [path for path in modules("sandboxes/runner") if path.name != "__init__.py"],
    ids=lambda path: path.name,
)
def test_the_runner_needs_nothing_but_python(path: Path) -> None:
    for level, name in imports(path):
        if level == 0:
            assert name.partition(".")[0] in sys.stdlib_module_names
        else:
            assert level == 1  # a sibling, since inside a sandbox the package has another name


@pytest.mark.parametrize("package", ["sandboxes", "agentexec"])
def test_importing_has_no_effects_and_is_light(package: str, tmp_path: Path) -> None:
    program = (
        f"import os, sys, threading; before = set(os.listdir('/proc/self/fd')); import {package}\n"
        "assert threading.active_count() == 1\n"
        "assert set(os.listdir('/proc/self/fd')) == before\n"
        "print(*{'docker', 'jupyter_client', 'openai', 'typer', 'rich', 'genai_prices'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []
