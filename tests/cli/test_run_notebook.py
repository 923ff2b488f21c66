"""`agentexec run NOTEBOOK.ipynb`, as a process, with real kernels."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import nbformat as typed_nbformat
import pytest

from tests.cli.conftest import Cli

pytestmark = pytest.mark.usefixtures("local")

nbformat: Any = typed_nbformat  # its functions have no types


def notebook(*cells: Any, **metadata: Any) -> str:
    """Return a notebook's text; a cell is its code, or a node."""
    v4 = nbformat.v4
    made = [v4.new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    return str(nbformat.writes(v4.new_notebook(cells=made, metadata=metadata)))


def read(path: str | Path) -> Any:
    found = nbformat.read(path, as_version=4)
    nbformat.validate(found)
    return found


def files(cli: Cli) -> set[str]:
    return {path.name for path in cli.directory.iterdir()}


def test_cells_share_a_kernel_and_outputs_are_written_back(cli: Cli) -> None:
    v4 = nbformat.v4
    path = cli.write(
        "n.ipynb",
        notebook(
            v4.new_markdown_cell("# Title", metadata={"kept": 1}),
            v4.new_code_cell("x = 20\nprint('set')", metadata={"tags": ["mine"]}),
            v4.new_raw_cell("raw"),
            "import sys\nprint('err', file=sys.stderr)\nx + 22",
            "",
            v4.new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}),
            v4.new_code_cell("print('never')", metadata={"tags": ["skip-execution"]}),
            "from IPython.display import SVG\nSVG('<svg></svg>')",
            authors=[{"name": "me"}],
        ),
    )
    os.chmod(cli.directory / "n.ipynb", 0o640)
    done = cli("run", path, "-s", "jupyter")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "set\n42\n<IPython.core.display.SVG object>\n"
    assert done.stderr.startswith("err\n")
    assert "ZeroDivisionError" in done.stderr
    written = read(cli.directory / "n.ipynb")
    assert written.metadata.authors == [{"name": "me"}]
    assert [cell.cell_type for cell in written.cells] == ["markdown", "code", "raw", *["code"] * 5]
    assert (written.cells[0].metadata, written.cells[1].metadata) == ({"kept": 1}, {"tags": ["mine"]})
    outputs = [[output.output_type for output in cell.get("outputs", [])] for cell in written.cells]
    assert outputs == [[], ["stream"], [], ["stream", "execute_result"], [], ["error"], [], ["execute_result"]]
    assert [cell.execution_count for cell in written.cells if cell.cell_type == "code"] == [1, 2, None, 3, None, 4]
    assert written.cells[3].outputs[1].data == {"text/plain": "42"}
    assert written.cells[7].outputs[0].data["image/svg+xml"] == "<svg/>"
    assert (cli.directory / "n.ipynb").stat().st_mode & 0o777 == 0o640
    assert files(cli) == {"n.ipynb"}


def test_it_stops_at_the_first_cell_that_fails(cli: Cli) -> None:
    stale = nbformat.v4.new_code_cell("print('never')", execution_count=9)
    stale.outputs = [nbformat.v4.new_output("stream", text="stale")]
    path = cli.write("n.ipynb", notebook("print(1)", "{}['no']", stale))
    done = cli("run", path)  # a kernel is what a notebook needs
    assert (done.returncode, done.stdout) == (1, "1\n")
    assert "KeyError" in done.stderr
    cells = read(cli.directory / "n.ipynb").cells
    assert [len(cell.outputs) for cell in cells] == [1, 1, 0]
    assert cells[1].outputs[0].ename == "KeyError"
    assert cells[2].execution_count is None


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("print('up', flush=True)\nwhile True: pass", 124, "timeout: code cell 2 of 3: ran longer than 2 s"),
        ("print('up', flush=True)\nimport os; os._exit(7)", 7, "its state is lost"),
    ],
)
def test_verdicts_are_as_everywhere_and_what_ran_is_kept(cli: Cli, code: str, status: int, said: str) -> None:
    path = cli.write("n.ipynb", notebook("x = 1\nx", code, "print('never')"))
    done = cli("run", path, "-s", "jupyter", "--timeout", "2")
    assert done.returncode == status
    assert said in done.stderr
    cells = read(cli.directory / "n.ipynb").cells
    assert [[output.output_type for output in cell.outputs] for cell in cells[::2]] == [["execute_result"], []]
    assert cells[1].outputs[0].text == "up\n"


def test_json_is_one_result_of_all_cells(cli: Cli) -> None:
    path = cli.write("n.ipynb", notebook("print(1)\n2", "open('f', 'w').write('x')\nprint(3)", "1 / 0", "print(4)"))
    done = cli("run", path, "-s", "jupyter", "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert (result["verdict"], result["exit_code"]) == ("failed", 1)
    assert (result["stdout"], result["stdout_bytes"]) == ("1\n3\n", 4)
    assert (result["error"]["name"], result["message"]) == ("ZeroDivisionError", "code cell 3 of 4")
    assert [display["data"] for display in result["displays"]] == [{"text/plain": "2"}]
    assert [file["path"] for file in result["files"]] == ["f"]


def test_interrupt_ends_the_cell_and_keeps_what_it_wrote(cli: Cli) -> None:
    path = cli.write("n.ipynb", notebook("print('first', flush=True)\nimport time\ntime.sleep(30)", "print('never')"))
    with cli.start("run", path, "-s", "jupyter") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr is not None
        said = process.stderr.read()
    outputs = read(cli.directory / "n.ipynb").cells[0].outputs
    assert [each.text for each in outputs if each.get("name") == "stdout"] == ["first\n"], (outputs, said)


def test_a_notebook_that_was_saved_meanwhile_is_left_as_it_is(cli: Cli) -> None:
    path = cli.write("n.ipynb", notebook("print('up', flush=True)\nimport time\ntime.sleep(1)"))
    with cli.start("run", path, "-s", "jupyter") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        cli.write("n.ipynb", notebook("mine"))
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert b"n.executed.ipynb" in process.stderr.read()
    assert read(cli.directory / "n.ipynb").cells[0].source == "mine"
    assert read(cli.directory / "n.executed.ipynb").cells[0].outputs[0].text == "up\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("[]", "is not a"),
        ("{}", "it has no field 'nbformat'"),
        (
            '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}',
            "valid",
        ),
        ('{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 3}', "is not a valid notebook"),
        ('{"nbformat": 99, "nbformat_minor": 0}', "is not a valid notebook"),
        ('{"nbformat": "x"}', "is not a valid notebook"),
        ("\udcff", "it is not UTF-8"),
    ],
)
def test_what_is_no_notebook_is_told(cli: Cli, text: str, said: str) -> None:
    (cli.directory / "n.ipynb").write_bytes(text.encode(errors="surrogateescape"))
    done = cli("run", "n.ipynb", "-s", "jupyter")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (cli.directory / "n.ipynb").read_bytes() == text.encode(errors="surrogateescape")


def test_a_sandbox_without_a_kernel_says_which_has_one(cli: Cli) -> None:
    path = cli.write("n.ipynb", notebook("1"))
    for spec in ("local", "docker"):
        done = cli("run", path, "-s", spec)
        assert done.returncode == 2
        assert f"the sandbox {spec!r} has none: say -s jupyter, or -s jupyter+docker" in done.stderr
    assert cli("run", "missing.ipynb", "-s", "jupyter").returncode == 2


def test_another_kernel_is_the_one_that_the_notebook_names(cli: Cli) -> None:
    spec = {"name": "nosuch", "display_name": "X", "language": "x"}
    path = cli.write("n.ipynb", notebook("1", kernelspec=spec))
    done = cli("run", path, "-s", "jupyter")
    assert done.returncode == 125
    assert "nosuch" in done.stderr
    done = cli("run", path, "-s", "jupyter+docker")
    assert (done.returncode, "say -s jupyter:nosuch" in done.stderr) == (2, True)
    venv = {"name": "my-venv", "display_name": "X", "language": "python"}
    assert cli("run", cli.write("n.ipynb", notebook("1", kernelspec=venv)), "-s", "jupyter").stdout == "1\n"


def test_older_notebooks_are_read(cli: Cli) -> None:
    cell = {"cell_type": "code", "collapsed": False, "input": ["print(3)"], "language": "python", "metadata": {}}
    old = {
        "nbformat": 3,
        "nbformat_minor": 0,
        "metadata": {"name": ""},
        "worksheets": [{"cells": [{**cell, "outputs": []}], "metadata": {}}],
    }
    path = cli.write("n.ipynb", json.dumps(old))
    assert cli("run", path, "-s", "jupyter").stdout == "3\n"
    assert read(cli.directory / "n.ipynb").cells[0].outputs[0].text == "3\n"
