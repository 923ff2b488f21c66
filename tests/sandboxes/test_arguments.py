"""Arguments of the wrong type are refused where they are given, and the message says what to write."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

import pytest

from sandboxes import CodeBlock, Executor, FakeExecutor, Limits, LocalSandbox, ScriptExecutor, open_executor
from sandboxes.jupyter import KernelExecutor


@pytest.mark.parametrize("code", [3, b"print(1)", None])
def test_the_code_of_a_block_is_text(code: Any) -> None:
    with pytest.raises(TypeError, match=f"code of a CodeBlock is a string, not {type(code).__name__}"):
        CodeBlock(code)


def test_a_limit_that_there_is_not_is_told_with_those_that_there_are() -> None:
    wrong: Any = {"timeout": 5}
    with pytest.raises(ValueError, match="no limit is called 'timeout'; there are wall_time, cpu_time, memory,"):
        Limits(**wrong)


def test_the_language_of_a_block_is_text() -> None:
    nothing: Any = None
    with pytest.raises(TypeError, match="such as 'python', not NoneType"):
        CodeBlock("print(1)", nothing)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (3, {}, "spec is a string such as 'local'"),
        ("local", {"limits": {"memory": "512M"}}, r"as in Limits\(memory=\"512M\"\), not dict"),
        ("local", {"limits": "512M"}, r"as in Limits\(memory=\"512M\"\), not str"),
        ("local", {"isolaton": "bwrap"}, "isolaton"),
        ("local", {"memory": "1G"}, r"write open_executor\('local', limits=Limits\(memory='1G'\)\)"),
        ("docker:x", {"wall_time": 5}, r"write open_executor\('docker:x', limits=Limits\(wall_time=5\)\)"),
        ("local", {"env": "TZ=UTC"}, 'env maps names to values, as in {"TZ": "UTC"}, not str'),
        ("docker", {"env": ["TZ=UTC"]}, 'env maps names to values, as in {"TZ": "UTC"}, not list'),
        ("docker", {"cpus": "2"}, "cpus is a number of processors, as in 1.5, not str"),
        ("docker", {"tmpfs": "/tmp"}, "tmpfs maps directories to sizes, .* not str"),
        ("docker", {"mounts": ["/srv"]}, "mounts maps directories to places inside, .* not list"),
        ("docker", {"network": True}, r"limits=Limits\(network=True\) lets blocks use it, not bool"),
        ("local", {"preload": "numpy"}, r"write preload=\['numpy'\]"),
        ("docker", {"preload": "numpy"}, r"write preload=\['numpy'\]"),
        ("jupyter", {"preload": "numpy"}, r"write preload=\['numpy'\]"),
    ],
)
def test_what_an_executor_is_made_of(spec: Any, options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        open_executor(spec, **options)


@pytest.mark.parametrize(
    "executor",
    [FakeExecutor(), ScriptExecutor(LocalSandbox()), KernelExecutor(LocalSandbox(), Limits())],
    ids=["fake", "script", "jupyter"],
)
async def test_a_string_is_no_block_and_no_content_of_a_file(executor: Executor) -> None:
    text: Any = "print(1)"
    with pytest.raises(TypeError, match=r"as in run\(CodeBlock\(\"print\(1\)\"\)\), not str"):
        await executor.run(text)
    with pytest.raises(TypeError, match=r"text.encode\(\)\), not str"):
        await executor.put("a.txt", text)


def test_editors_know_the_limits_as_they_are() -> None:
    """The signature that type checkers see is written by hand: the same names and defaults as the fields."""
    [seen] = (
        node
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(Limits))))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    defaults = [eval(ast.unparse(default)) for default in seen.args.kw_defaults if default is not None]
    shown = dict(zip((arg.arg for arg in seen.args.kwonlyargs), defaults, strict=True))
    assert shown == {name: field.default for name, field in Limits.model_fields.items()}
    strings = {arg.arg for arg in seen.args.kwonlyargs if arg.annotation and ast.unparse(arg.annotation) == "int | str"}
    assert strings == {"memory", "disk", "file_size", "output"}
