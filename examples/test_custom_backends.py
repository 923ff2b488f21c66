"""The public tests of the contract on the two backends that are shown here: `python -m pytest examples`."""

import pytest
from custom_backend import PlainSandbox
from in_memory_backend import CalculatorExecutor

from sandboxes import ScriptExecutor
from sandboxes.conformance import Backend, ConformanceTests, Programs

CALC = Programs(
    language="calc",
    hello="say hello",
    fail="no such word",
    warn="warn warned",
    wait="say up\nsleep 3600",
    nap="say up\nsleep 0.25",
    flood="repeat 100000 x",
    write="save made.txt made",
    read="load given.txt",
    remember="add x 1",
    recall="show x",
)


class TestPlainSandbox(ConformanceTests):
    """A `Sandbox`: only a byte stream is its own."""

    @pytest.fixture
    def backend(self) -> Backend:
        return Backend(
            lambda limits, workspace: ScriptExecutor(PlainSandbox(), limits), host_workspace=False, languages=("sh",)
        )


class TestCalculator(ConformanceTests):
    """An `Executor`: everything is its own."""

    @pytest.fixture
    def backend(self) -> Backend:
        return Backend(CalculatorExecutor, programs=CALC, host_workspace=False)
