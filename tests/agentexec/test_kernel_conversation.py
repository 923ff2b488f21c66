"""A conversation over several turns that lives on one kernel's state, in both kinds of sandbox."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentexec import solve
from agentexec.models.openai import OpenAIModel
from sandboxes import Limits, open_executor
from tests.openai_server import OpenAIServer
from tests.sandboxes.backends import KERNELS, Backend, require_engine


@pytest.fixture(params=KERNELS, ids=lambda backend: backend.name)
def spec(request: pytest.FixtureRequest) -> str:
    backend: Backend = request.param
    require_engine(backend.installed(), backend.engine)
    return backend.spec


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


TURNS = [
    "I load.\n\n```python\nimport csv\nrows = list(csv.DictReader(open('n.csv')))\nlen(rows)\n```\n",
    "I look.\n\n```python\nnumbers = [int(row['n']) for row in rows]\nnumbers\n```\n",
    "I plot.\n\n```python\nimport matplotlib.pyplot as plt\nplt.plot(numbers)\nplt.show()\n```\n",
    "I refine.\n\n```python\nprint('the sum is', sum(numbers) + len(rows))\n```\n",
    "FINAL ANSWER: 63, see plot-1.png",
]


@pytest.mark.timeout(120)
async def test_four_turns_share_the_state_of_one_kernel(spec: str, server: OpenAIServer) -> None:
    server.replies = {"coder": list(TURNS)}
    async with open_executor(spec, limits=Limits(wall_time=30)) as executor:
        result = await solve(
            "Add up.",
            model=OpenAIModel("gpt-4o-mini", base_url=server.url, api_key="key"),
            executor=executor,
            files={"n.csv": b"n\n10\n20\n30\n"},
            plan=False,
            review=False,
        )
        picture = await executor.get("plot-1.png")
    assert (result.status, result.answer) == ("solved", "63, see plot-1.png"), result
    assert [block.result.verdict for block in result.blocks] == ["ok"] * 4
    assert result.blocks[3].result.stdout == "the sum is 63\n"
    assert "plot-1.png" in result.files
    messages = [message["content"] for message in server.requests[-1]["messages"]]
    told = [content if isinstance(content, str) else content[0]["text"] for content in messages]
    assert "Blocks are cells of one kernel" in told[0]
    assert any(re.search(r"display \(text/plain\):\n+```+\w*\n3\n", text) for text in told)
    (seen,) = [content for content in messages if isinstance(content, list)]
    assert "saved as plot-1.png, attached as picture 1" in seen[0]["text"]
    assert seen[1]["text"] == "plot-1.png:"
    assert seen[2]["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(picture).decode()
    assert picture.startswith(b"\x89PNG")


@pytest.mark.timeout(120)
def test_the_example_runs_and_leaves_a_notebook(spec: str, tmp_path: Path) -> None:
    program = Path(__file__).parents[2] / "examples" / "kernel" / "conversation.py"
    done = subprocess.run(
        [sys.executable, str(program), spec, "out.ipynb"], cwd=tmp_path, capture_output=True, text=True, timeout=110
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    lines = done.stdout.splitlines()
    assert lines[0] == "turn 1: ok: 309 years, 1700 to 2008"
    assert lines[1] == "turn 3: ok: 28"
    assert lines[2].endswith("plot-1.png")
    assert lines[3].startswith("turn 7: ok: 10.9 ")
    assert lines[4].startswith("solved - A cycle takes about 10.9 years")
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    assert [len(cell["outputs"]) for cell in cells if cell["cell_type"] == "code"] == [1, 1, 1, 2]
