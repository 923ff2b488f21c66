"""The public kit says what it should: yes to sound executors, no to each kind of broken one; and it disturbs nobody."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from sandboxes.conformance.canaries import Canaries
from tests.sandboxes.backends import LOCAL, require_engine
from tests.sandboxes.broken import RULES

ROOT = Path(__file__).parents[2]
MINE = """
import pytest
from sandboxes import open_executor
from sandboxes.conformance import Backend, ContractTests

class TestMine(ContractTests):
    @pytest.fixture
    def backend(self):
        return Backend(lambda limits, workspace: open_executor("local", limits=limits, workspace=workspace))
"""


def outcomes(arguments: Sequence[str], directory: Path = ROOT) -> dict[str, str]:
    """Run pytest in a process of its own; return each test's outcome by its name, `Class::test`."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:hypothesispytest",
        "-v",
        "--tb=no",
        *arguments,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)
    found = re.findall(r"::(\w+::.+) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b", done.stdout)
    assert found, done.stdout + done.stderr
    return dict(found)


@pytest.mark.timeout(310)
def test_each_broken_rule_fails_its_own_test() -> None:
    # That sound executors pass the same tests is shown by the examples and by our own backends.
    broken = {f"Test{kind.__name__}::{test}" for kind, test in RULES.items()}
    found = outcomes([f"tests/sandboxes/broken.py::{name}" for name in sorted(broken)])
    assert found == dict.fromkeys(broken, "FAILED")


@pytest.mark.timeout(310)
def test_the_in_memory_example_passes() -> None:
    found = outcomes(["examples/test_custom_backends.py", "-k", "Calculator"])
    assert set(found.values()) == {"PASSED", "SKIPPED"}
    assert list(found.values()).count("PASSED") >= 35


@pytest.mark.timeout(310)
def test_the_byte_stream_example_passes() -> None:
    # Of the long tables about memory and disk a few rows are enough here: what holds them is our own runner.
    tables = "(test_memory or test_disk) and not bytearray and not large"
    some = f"Plain and not reachable and not administration and not ({tables})"
    found = outcomes(["examples/test_custom_backends.py", "-k", some])
    assert set(found.values()) == {"PASSED", "SKIPPED"}
    assert list(found.values()).count("PASSED") >= 60


def test_a_registered_executor_is_tested_by_its_name() -> None:
    require_engine(LOCAL.installed(), LOCAL.engine)
    command = [sys.executable, "-m", "sandboxes.conformance", "local", "-k", "test_failed or test_odd_names", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "usage: python -m sandboxes.conformance NAME[:ARG]"),
        (["--help"], 0, "usage: python -m sandboxes.conformance NAME[:ARG]"),
        (["nope"], 2, "no executor is called 'nope'; known are"),
    ],
)
def test_a_name_that_is_missing_or_wrong_is_asked_for(arguments: list[str], status: int, words: str) -> None:
    command = [sys.executable, "-m", "sandboxes.conformance", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == status
    said = done.stdout if status == 0 else done.stderr
    assert words in said
    assert "local" in said


def test_a_fixture_that_gives_no_backend_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(MINE.replace("return Backend(", "return ("))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py", "-k", "listed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert "the fixture `backend` returns a sandboxes.conformance.Backend, such as Backend(MyExecutor)" in done.stdout


@pytest.mark.parametrize("place", ["class", "conftest"])
def test_one_fixture_is_enough_anywhere(tmp_path: Path, place: str) -> None:
    if place == "conftest":
        head, fixture = MINE.split("class TestMine(ContractTests):\n")
        (tmp_path / "conftest.py").write_text(head + textwrap.dedent(fixture).replace("(self)", "()"))
        (tmp_path / "test_mine.py").write_text(f"{head}class TestMine(ContractTests): pass\n")
    else:
        (tmp_path / "test_mine.py").write_text(MINE)
    plain = ["-p", "no:asyncio", "-p", "no:timeout", "test_mine.py", "-k", "missing or listed"]
    assert set(outcomes(plain, tmp_path).values()) == {"PASSED"}


def test_installing_the_toolkit_changes_nobodys_tests(tmp_path: Path) -> None:
    code = "import sys\ndef test_it():\n    assert not [name for name in sys.modules if name.startswith('sandboxes')]\n"
    (tmp_path / "test_other.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_other.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert "1 passed" in done.stdout, done.stdout


def test_canaries_are_where_a_block_could_reach_them_however_deep_the_tests_lie(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    canaries = Canaries(deep)
    try:
        canaries.assert_untouched()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
            visitor.connect(str(canaries.path))
            with pytest.raises(AssertionError, match="reached a socket"):
                canaries.assert_untouched()
    finally:
        canaries.close()
    assert not canaries.path.parent.exists()
