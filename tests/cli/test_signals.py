"""A signal ends a wait at whatever moment it comes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentexec.cli.signals import SIGNALS, interrupts


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
async def test_signal_that_does_not_break_the_wait_off_ends_it(number: signal.Signals) -> None:
    ended = asyncio.Event()

    def elsewhere() -> None:
        # As one that comes just before the wait: the kernel does not break off the system call of the main thread.
        time.sleep(0.1)
        signal.pthread_kill(threading.get_ident(), number)

    thread = threading.Thread(target=elsewhere)
    with interrupts(ended.set) as state:
        thread.start()
        started = time.monotonic()
        await asyncio.wait_for(ended.wait(), 20)
        assert time.monotonic() - started < 10, "only the end of the wait has shown it"
        assert state.count == 1
    thread.join()


async def test_nothing_is_left_behind() -> None:
    before, handlers = len(os.listdir("/proc/self/fd")), [signal.getsignal(number) for number in SIGNALS]
    for _ in range(3):
        with interrupts(lambda: None):
            pass
    assert len(os.listdir("/proc/self/fd")) == before
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    assert signal.set_wakeup_fd(-1) == -1


def test_control_c_while_modules_are_loaded_ends_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n")
    # As in a terminal, also where the tests run in the background of a script, and it is ignored.
    code = "import runpy, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "runpy.run_module('agentexec', run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=20)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")
