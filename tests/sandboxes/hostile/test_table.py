"""The page about hostile code names tests that there are, and leaves none of this suite out."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
TEST = re.compile(r"^ *(?:async )?def test_(\w+)", re.MULTILINE)
ABOUT_THE_SUITE = {"test_table", "test_exceptions"}


def names_in(*paths: Path) -> set[str]:
    return {name for path in paths for name in TEST.findall(path.read_text("utf-8"))}


def named() -> set[str]:
    lines = [line for line in (HERE / "README.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    return {name for line in lines for name in re.findall(r"`(\w+)`", line.split(" | ")[-1]) if name != "tests"}


def test_every_test_that_the_page_names_is_there() -> None:
    assert named() - names_in(*TESTS.rglob("test_*.py")) == set()


def test_every_test_of_this_suite_is_on_the_page() -> None:
    assert names_in(*(path for path in HERE.glob("test_*.py") if path.stem not in ABOUT_THE_SUITE)) - named() == set()
