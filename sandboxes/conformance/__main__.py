"""`python -m sandboxes.conformance NAME[:ARG]`: run the kit on an executor that is registered as an entry point."""

from __future__ import annotations

import asyncio
import sys

import pytest

from sandboxes.conformance.backend import Backend
from sandboxes.errors import SandboxError
from sandboxes.registry import executor_names, open_executor

USAGE = """usage: python -m sandboxes.conformance NAME[:ARG] [options of pytest]

Tests whether an executor keeps what the contract promises, e.g. with -k VerdictTests or -x.
Known names are"""


class Plugin:
    """Gives the tests their backend."""

    def __init__(self, spec: str) -> None:
        self._spec = spec

    @pytest.fixture
    def backend(self) -> Backend:
        """The executor that was named."""
        return Backend(lambda limits, workspace: open_executor(self._spec, limits=limits, workspace=workspace))


async def _open(spec: str) -> None:
    async with open_executor(spec):
        pass


def main(arguments: list[str]) -> int:
    """Run the kit; return pytest's exit status, or 2 for wrong usage and for an executor that does not open."""
    usage = f"{USAGE} {', '.join(executor_names())}."
    if arguments and arguments[0] in ("-h", "--help"):
        print(usage)  # noqa: T201
        return 0
    if not arguments or arguments[0].startswith("-"):
        print(usage, file=sys.stderr)  # noqa: T201
        return 2
    try:
        asyncio.run(_open(arguments[0]))  # else every test would say the same
    except SandboxError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    options = ["--pyargs", "sandboxes.conformance.registered", "-p", "no:cacheprovider", *arguments[1:]]
    return int(pytest.main(options, plugins=[Plugin(arguments[0])]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
