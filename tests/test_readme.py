"""Every command and every program in the README works, as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.openai_server import OpenAIServer
from tests.sandboxes.backends import DOCKER, require_engine

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ELSEWHERE = ("make demo", "make test", "pip install")  # .ci/run runs them: they make what this test runs in

pytestmark = pytest.mark.timeout(240)  # one of the commands tries out the whole machine


def fences(language: str) -> list[str]:
    return [body for name, body in FENCE.findall(README) if name == language]


def commands() -> list[tuple[str, str]]:
    """Return each command with the output that the README shows for it."""
    found = []
    for body in fences("console"):
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            if not command.startswith(ELSEWHERE):
                found.append((command, output))
    return found


@pytest.fixture
def model() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        code = "I sum up.\n\n```python\nprint(open('sales.csv').read())\n```\n"
        server.replies.update(
            planner=["1. Sum the revenue."], reviewer=["APPROVE"], coder=[code, "FINAL ANSWER: South, with 20."]
        )
        yield server


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readme")
    (path / "sales.csv").write_text("region,revenue\nNorth,10\nSouth,20\n")
    shutil.copytree(ROOT / "examples", path / "examples")
    return path


def run(command: list[str], directory: Path, model: OpenAIServer) -> subprocess.CompletedProcess[str]:
    require_engine(shutil.which("bwrap") is not None, "bwrap")
    if any(word in command[-1] for word in ("docker", "images", "clean")):
        require_engine(DOCKER.installed(), DOCKER.engine)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "key"}
    environment |= {"TMPDIR": str(directory), "AGENTEXEC_STORE": str(directory / "store")}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=200)


def test_commands_are_found() -> None:
    assert len(commands()) >= 6


@pytest.mark.parametrize(("command", "output"), commands())
def test_command(command: str, output: str, directory: Path, model: OpenAIServer) -> None:
    if not (directory / "sum.py").exists():  # made by an earlier command; tests run in any order
        (directory / "sum.py").write_text("print(sum(range(10)))\n")
    if command == "agentexec clean":  # tests that kill owners leave control groups to the next start
        run(["bash", "-c", command], directory, model)
    done = run(["bash", "-c", command], directory, model)
    assert done.returncode == 0, done.stderr
    if output:
        assert done.stdout == output
    else:
        assert done.stdout.strip() == ("" if ">" in command else "South, with 20.")


@pytest.mark.parametrize("program", fences("python"), ids=lambda program: program.split("\n", 1)[0][:30])
def test_program(program: str, directory: Path, model: OpenAIServer) -> None:
    done = run([sys.executable, "-c", program], directory, model)
    assert (done.returncode, done.stderr) == (0, "")
    first_word = done.stdout.split()[0]
    assert first_word in ("ok", "run_started", "warm", "6")
    if "memory=" in program:
        shown = next(text for text in fences("text") if text.startswith("ok "))
        # On a busy machine the kernel may be there before the runner's watcher, and is named as the one who was.
        how = r"used \d+ MiB of memory|the kernel ended a process for want of memory"
        assert re.sub(how, "HOW", done.stdout).split() == re.sub(how, "HOW", shown).split()


def test_the_custom_backend_is_the_example() -> None:
    assert (ROOT / "examples/custom_backend.py").read_text("utf-8") in fences("python")


def test_the_example_is_short() -> None:
    source = (ROOT / "examples/custom_backend.py").read_text("utf-8")
    backend = source[source.index("class PlainSandbox") : source.index("async def main")]
    assert len([line for line in backend.splitlines() if line.strip()]) <= 30
