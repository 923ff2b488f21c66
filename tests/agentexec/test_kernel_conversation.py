"""A conversation over several turns that lives on one kernel's state, in both kinds of sandbox."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

import pytest

from agentexec import solve
from agentexec.models.openai import OpenAIModel
from sandboxes import Limits, open_executor
from tests.openai_server import OpenAIServer
from tests.sandboxes.backends import BACKENDS, require_engine


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def spec(request: pytest.FixtureRequest) -> str:
    backend = request.param
    require_engine(backend.installed(), backend.engine)
    return "jupyter" if backend.name == "local" else "jupyter+docker"


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
