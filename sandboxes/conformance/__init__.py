"""The tests that any executor has to pass, ours or yours, as a pytest plug-in.

This is all that has to be written, in a test module of your own:

    import pytest
    from sandboxes.conformance import Backend, ConformanceTests

    class TestMine(ConformanceTests):
        @pytest.fixture
        def backend(self) -> Backend:
            return Backend(MyExecutor)      # called as MyExecutor(limits, workspace)

pytest then runs everything the contract promises (`ContractTests`), one word for what came of a block
(`VerdictTests`), and what code inside may try (`HostileTests`), each as a test with a name of its own. pytest is
all it needs; no plug-in for coroutines. An executor that is registered as an entry point needs no file at all:

    python -m sandboxes.conformance NAME[:ARG] [pytest's options]

What is tested follows from what the executor says of itself in `Executor.isolation`. A field of `Limits` counts as
enforced unless it is in `unenforced`; in addition there are the aspects `filesystem` (no file of this machine is
seen but the workspace), `system calls` (the kernel's dangerous ones are refused) and `kill` (nothing that a block
starts outlives it), which count when `mechanisms` names them. What is not claimed is skipped, and the reason names the
aspect. State `Backend.capabilities`, and a claim that gets lost is a failure instead.

An executor that does not run Python says in `Backend.programs` how the contract's few programs are written in its
language; what needs Python is then skipped. An exception to the rules has a name and a reason, in `Backend.exceptions`:
that test is expected to fail, and fails if it passes.

The hostile programs are in `sandboxes.conformance.programs`, for stricter tests of your own. An `Arena` that checks
more, since it knows how your backend works, is for `Suite.make_arena` to return.

What is checked around every hostile block: the call returns in time; there is one verdict, the right one; no process
of the block is left; files and sockets around the workspace are untouched; this process's descriptors, threads and
memory are what they were; the next block works.
"""

import sys

try:
    import pytest
except ModuleNotFoundError as error:
    _MISSING = "the conformance tests need pytest: type 'pip install pytest'"
    if sys.argv[:1] == ["-m"]:  # `python -m` has only begun to look for what it is to run
        sys.exit(_MISSING)
    raise ModuleNotFoundError(_MISSING, name="pytest") from error

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in ("arena", "canaries", "contract", "hostile", "lifetime", "suite", "verdicts")
    )
)

from sandboxes.conformance.arena import Arena  # noqa: E402
from sandboxes.conformance.backend import PYTHON, Backend, Programs  # noqa: E402
from sandboxes.conformance.contract import ContractTests  # noqa: E402
from sandboxes.conformance.hostile import HostileTests  # noqa: E402
from sandboxes.conformance.lifetime import LifetimeTests  # noqa: E402
from sandboxes.conformance.suite import Suite  # noqa: E402
from sandboxes.conformance.verdicts import VerdictTests  # noqa: E402

__all__ = [
    "PYTHON",
    "Arena",
    "Backend",
    "ConformanceTests",
    "ContractTests",
    "HostileTests",
    "LifetimeTests",
    "Programs",
    "Suite",
    "VerdictTests",
]


class ConformanceTests(ContractTests, LifetimeTests, VerdictTests, HostileTests):
    """All of it. Derive from it, and give it the fixture `backend`."""
