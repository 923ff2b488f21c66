"""Runs as notebooks: everything in order, valid, and run again by stock Jupyter."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat as typed_nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from agentexec import solve
from agentexec.events import (
    BlockFinished,
    BlockRefused,
    BlockStarted,
    Event,
    Message,
    MessageAdded,
    Picture,
    RunFinished,
    RunStarted,
)
from agentexec.notebook import notebook_of
from sandboxes import CodeBlock, Display, ErrorInfo, Limits, Result, WorkspaceFile, open_executor
from tests.agentexec.doubles import ScriptedModel, run
from tests.sandboxes.backends import LOCAL, require_engine

nbformat: Any = typed_nbformat  # its functions have no types

CSV = b"n\n10\n20\n30\n"


def run_again(notebook: NotebookNode, directory: Path) -> NotebookNode:
    """Run a notebook as stock Jupyter does: from its file, with the files beside it."""
    text = nbformat.writes(notebook)
    again: NotebookNode = nbformat.reads(text, as_version=4)
    nbformat.validate(again)
    for cell in again.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the stock tools
        NotebookClient(
            again, timeout=30, kernel_name="python3", resources={"metadata": {"path": str(directory)}}
        ).execute()
    return again


def shown(notebook: NotebookNode) -> list[Any]:
    """Return what each code cell printed and showed, without what differs from run to run."""
    return [
        [
            "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout"),
            [sorted(o.data) for o in cell.outputs if o.output_type in ("display_data", "execute_result")],
            [o.ename for o in cell.outputs if o.output_type == "error"],
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def texts(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


async def solved(coder: Sequence[str], spec: str, **options: Any) -> NotebookNode:
    require_engine(LOCAL.installed(), LOCAL.engine)
    async with open_executor(spec, limits=Limits(wall_time=30)) as executor:
        result = await solve("Add up.", model=ScriptedModel(coder), executor=executor, files={"n.csv": CSV}, **options)
    assert result.solved, result
    return notebook_of(result.events)


@pytest.mark.timeout(120)
async def test_a_kernel_s_conversation_is_a_notebook_that_stock_jupyter_runs_again(tmp_path: Path) -> None:
    notebook = await solved(
        [
            "I load.\n\n```python\nimport csv\nrows = list(csv.DictReader(open('n.csv')))\nlen(rows)\n```\n\nI look.",
            run("numbers = [int(row['n']) for row in rows]\nprint(numbers)\nnumbers[7]"),
            "I plot.\n\n```python\nimport matplotlib.pyplot as plt\nplt.plot(numbers)\nplt.show()\n```\n",
            "```bash\necho from bash\n```\nand\n```python filename=src/total.py\nprint('sum', sum(numbers))\n```\n",
            "All seen.\n\nFINAL ANSWER: 60, see plot-1.png",
        ],
        "jupyter",
    )
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert shown(notebook) == [
        ["", [["text/plain"]], []],
        ["[10, 20, 30]\n", [], ["IndexError"]],
        ["", [["image/png", "text/plain"]], []],
        ["from bash\n", [], []],
        ["", [], []],
        ["", [], []],
        ["sum 60\n", [], []],
    ]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4, None, None, 5]
    assert cells[0].outputs[0] == {
        "output_type": "execute_result",
        "execution_count": 1,
        "data": {"text/plain": "3"},
        "metadata": {},
    }
    assert "\x1b[" in "".join(cells[1].outputs[-1].traceback)
    said = texts(notebook)
    assert said[0].startswith("# Task\n\nAdd up.")
    assert "n.csv" in said[0]
    assert said[1] == "**Planner**\n\n1. Do it."
    assert said[2] == "**Coder**\n\nI load."
    assert said[3] == "I look."
    assert any("failed, exit status 1" in text for text in said)
    assert said[-2:] == ["**Coder**\n\nAll seen.", "# Answer\n\n60, see plot-1.png"] or said[-3:-1] == [
        "**Coder**\n\nAll seen.",
        "**Reviewer**\n\nAPPROVE",
    ]
    assert said[-1] == "# Answer\n\n60, see plot-1.png"
    assert not any("## Block" in text for text in said)

    (tmp_path / "n.csv").write_bytes(CSV)
    again = run_again(notebook, tmp_path)
    expected = shown(notebook)
    expected[5][0] = "Writing src/total.py\n"
    assert shown(again) == expected
    assert (tmp_path / "src/total.py").read_text() == "print('sum', sum(numbers))\n"


@pytest.mark.timeout(120)
async def test_programs_run_again_too(tmp_path: Path) -> None:
    notebook = await solved(
        [
            "```python filename=lib/tools.py\ndef double(n): return 2 * n\n```\n"
            "```python filename=main.py\nimport asyncio, sys\nsys.path.insert(0, 'lib')\nfrom tools import double\n"
            "async def main(): print(double(21), __file__[-7:])\nasyncio.run(main())\n```\n",
            run(
                "import argparse, asyncio as a\nargparse.ArgumentParser().parse_args()\na.run(a.sleep(0))\nprint('ok')"
            ),
            run("cat n.csv | tail -1", "bash"),
            run("raise SystemExit(3)"),
            "FINAL ANSWER: done",
        ],
        "local",
        plan=False,
        review=False,
    )
    (tmp_path / "n.csv").write_bytes(CSV)
    printed = [row[0].strip() for row in shown(run_again(notebook, tmp_path))]
    assert [line for line in printed if line and "Writing" not in line] == ["42 main.py", "ok", "30"]
    assert texts(notebook)[-1] == "# Answer\n\ndone"


def told(*events: Event, executor: str = "jupyter") -> NotebookNode:
    notebook = notebook_of(
        [RunStarted(run_id="r-1", task="Do it.", model="m", executor=executor, limits=Limits()), *events]
    )
    nbformat.validate(notebook)
    nbformat.writes(notebook).encode()
    return notebook


def says(content: str, turn: int = 1, sender: str = "coder", **more: Any) -> MessageAdded:
    return MessageAdded(message=Message(sender=sender, content=content, turn=turn, **more))


def test_what_never_ran_is_text_and_not_code() -> None:
    blocks = [CodeBlock(f"print({n})\n", "python") for n in range(4)]
    notebook = told(
        says("".join(f"```python\n{block.code}```\n" for block in blocks)),
        says("REVISE: not yet", 2, "reviewer"),
        says("".join(f"```python\n{block.code}```\n" for block in blocks), 3),
        BlockFinished(turn=3, index=0, block=blocks[0], result=Result(verdict="ok", exit_code=0, stdout="0\n")),
        BlockStarted(turn=3, index=1, block=blocks[1]),
        BlockFinished(
            turn=3, index=1, block=blocks[1], result=Result(verdict="timeout", message="ran longer than 1 s")
        ),
        BlockRefused(turn=3, index=2, block=blocks[2], reason="not approved: `no`\nway"),
        says("## Block 1 of 4: ok", 4, "executor"),
        says("No code at all.", 5),
        says("Nothing was run.", 6, "executor"),
        RunFinished(status="not_solved", stop_reason="stall", message="it stalled"),
    )
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.source for cell in code] == ["print(0)\n", "print(1)\n"]
    # What ended at a limit here may have none elsewhere.
    assert [cell.metadata.get("tags") for cell in code] == [None, ["skip-execution"]]
    said = texts(notebook)
    assert sum("*This block was not run.*" in text for text in said) == 5
    assert any("refused, not run: not approved: `no`\\nway" in text and "print(2)" in text for text in said)
    assert any("*timeout: ran longer than 1 s*" in text for text in said)
    assert not any("## Block" in text for text in said)
    assert "**Executor**\n\nNothing was run." in said
    assert said[-1] == "# Not solved\n\nnot_solved, stall: it stalled"


def test_an_interrupted_run_is_a_notebook_too() -> None:
    block = CodeBlock("work()\n", "python")
    notebook = told(says("```python\nwork()\n```"), BlockStarted(turn=1, index=0, block=block))
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert (cell.source, cell.outputs) == ("work()\n", [])
    assert texts(notebook)[-1] == "*The record of the run ends here.*"
    assert notebook_of([]).cells


def test_other_languages_and_kernels() -> None:
    blocks = [CodeBlock("x\n", name) for name in ("bash", "sh", "javascript", "perl", "ruby", "r", "c", "martian")]
    events: list[Event] = [says("".join(f"```{block.language}\nx\n```\n" for block in blocks[:-1]))]
    done = Result(verdict="ok", exit_code=0)
    events += [BlockFinished(turn=1, index=n, block=block, result=done) for n, block in enumerate(blocks[:-1])]
    notebook = told(*events)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert [source.partition("\n")[0] for source in sources[:6]] == [
        "%%bash",
        "%%sh",
        "%%script node",
        "%%perl",
        "%%ruby",
        "%%writefile block-7.R",
    ]
    assert "Rscript --vanilla block-" in sources[6]
    assert "gcc -O1" in sources[8]

    block = CodeBlock("echo hi\n", "bash")
    other = told(
        says("```bash\necho hi\n```"), BlockFinished(turn=1, index=0, block=block, result=done), executor="jupyter:bash"
    )
    assert other.metadata.kernelspec.name == "bash"
    assert [cell.source for cell in other.cells if cell.cell_type == "code"] == ["echo hi\n"]


def test_hostile_names_and_text_stay_harmless_and_valid() -> None:
    name = "a'; $(touch x) {1+1}\".py"
    block = CodeBlock("1\n", "bash", filename=name)
    result = Result(
        verdict="failed",
        exit_code=1,
        stdout="\x1b[31m\x00",
        displays=(
            Display(data={"application/json": '{"a": [1]}', "text/html": "<b>"}, metadata={"width": 3}),
            Display(data={"application/vnd.x+json": "no json"}, execution_count=7),
        ),
        error=ErrorInfo(name="E", message="m"),
        files=tuple(WorkspaceFile(path=f"f{n}\u202e", size=1) for n in range(60)),
    )
    notebook = told(
        says(f'```bash filename="{name}"\n1\n```\n'), BlockFinished(turn=1, index=0, block=block, result=result)
    )
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all("touch x" not in cell.source for cell in code)
    assert code[-1].outputs[1].data["application/json"] == {"a": [1]}
    assert code[-1].outputs[2].execution_count == 7
    text = json.dumps(notebook)
    assert '\\u202e"' not in text
    assert "and 10 more" in text


def test_pictures_of_messages_are_attached() -> None:
    picture = Picture(name="p.png", media_type="image/png", data=b"\x89PNG")
    notebook = told(says("Look.", 1, "human", pictures=(picture,)))
    cell = notebook.cells[1]
    assert cell.source == "**Human**\n\nLook.\n\n![p.png](attachment:picture-1)"
    assert cell.attachments == {"picture-1": {"image/png": "iVBORw=="}}
