"""The tables of exceptions name what there is."""

from __future__ import annotations

import re
from pathlib import Path

from tests.sandboxes.backends import BACKENDS, KERNELS
from tests.sandboxes.hostile.exceptions import EXCEPTIONS, NOT_ON_KERNELS, NOT_ON_KERNELS_IN_CONTAINERS, reason

HERE = Path(__file__).parent


def test_every_exception_names_a_test_and_a_backend() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in HERE.glob("test_*.py"))
    tests = set(re.findall(r"^(?:async )?def (test_\w+)", sources, re.MULTILINE))
    for backend, test in EXCEPTIONS:
        assert test.partition("[")[0] in tests, test
        assert backend in {each.name for each in (*BACKENDS, *KERNELS)}
    assert {path.stem for path in HERE.glob("test_*.py")} >= NOT_ON_KERNELS.keys() | NOT_ON_KERNELS_IN_CONTAINERS.keys()


def test_a_reason_is_that_of_the_case() -> None:
    assert reason("jupyter", "test_deep_recursion_is_failed[jupyter]")
    assert reason("local", "test_deep_recursion_is_failed[local]") is None
    assert reason("jupyter", "test_broken_interpreter_harms_only_itself[jupyter-sys.modules.clear()]")
    assert reason("jupyter", "test_broken_interpreter_harms_only_itself[jupyter-other]") is None
