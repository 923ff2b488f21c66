"""One word for what came of a block, with the same meaning everywhere."""

from __future__ import annotations

import pytest

from sandboxes.conformance.arena import Arena
from sandboxes.conformance.programs import DISK, IGNORE_SIGNALS, MEMORY, PRELUDE, SHARED_MEMORY, filling
from sandboxes.conformance.suite import Suite


class VerdictTests(Suite):
    """Verdicts; `cancelled` and `lost` are among the tests of lifetime."""

    async def test_ok(self, arena: Arena) -> None:
        async with arena.open() as executor:
            assert (await arena.run(executor, arena.backend.hello)).exit_code in (0, None)

    async def test_failed(self, arena: Arena) -> None:
        block = arena.program("fail")
        async with arena.open() as executor:
            result = await arena.run(executor, block, verdict="failed")
            assert result.exit_code != 0

    async def test_timeout_keeps_partial_output(self, arena: Arena) -> None:
        block = arena.program("wait")
        async with arena.open(wall_time=0.7) as executor:
            result = await arena.run(executor, block, verdict="timeout")
            assert (result.stdout, result.stdout_bytes, result.exit_code) == ("up\n", 3, None)
            assert 0.6 < result.duration < 0.7 + arena.backend.grace

    async def test_timeout_of_a_busy_block_that_ignores_signals(self, arena: Arena) -> None:
        block = arena.python(f"{IGNORE_SIGNALS}print('before', flush=True)\nwhile True: pass")
        async with arena.open(wall_time=0.7) as executor:
            if executor.keeps_state:
                pytest.skip("what ignores an interrupt costs the state; how long it takes is its own affair")
            assert (await arena.run(executor, block, verdict="timeout")).stdout == "before\n"

    @pytest.mark.parametrize("status", [1, 3, 124, 137, 255])
    async def test_own_exit_status_is_failed_whatever_it_is(self, arena: Arena, status: int) -> None:
        block = arena.python(f"import os, subprocess, sys\nsys.stdout.flush(); os._exit({status})")
        async with arena.open() as executor:
            if executor.keeps_state:
                pytest.skip("that would be the end of the state")
            result = await arena.run(executor, block, verdict="failed")
            assert (result.exit_code, result.signal) == (status, None)

    @pytest.mark.parametrize("number", [6, 9, 15])
    async def test_own_death_by_signal_is_failed(self, arena: Arena, number: int) -> None:
        block = arena.python(f"import os\nprint('before', flush=True)\nos.kill(os.getpid(), {number})")
        async with arena.open() as executor:
            if executor.keeps_state:
                pytest.skip("that would be the end of the state")
            result = await arena.run(executor, block, verdict="failed")
            assert (result.exit_code, result.signal, result.stdout) == (None, number, "before\n")

    async def test_cpu_time(self, arena: Arena) -> None:
        code = "print('before', flush=True)\nwhile True: pass"
        result = await arena.attack(code, verdict="cpu_time", cpu_time=0.4)
        assert result.stdout == "before\n"
        assert result.cpu_time is None or 0.4 <= result.cpu_time < 0.4 + arena.backend.grace

    async def test_cpu_time_is_that_of_all_processes(self, arena: Arena) -> None:
        code = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
        await arena.attack(code, verdict="cpu_time", cpu_time=0.5)

    @pytest.mark.parametrize("how", MEMORY)
    async def test_memory(self, arena: Arena, how: str) -> None:
        result = await arena.attack(filling(how), verdict="memory", memory="192M")
        assert result.stdout == "before\n"

    @pytest.mark.parametrize("how", SHARED_MEMORY)
    async def test_shared_memory_is_counted_or_refused(self, arena: Arena, how: str) -> None:
        block = arena.python(filling(how))
        async with arena.open("filesystem", "system calls", memory="192M") as executor:
            result = await executor.run(block)
            assert result.verdict in ("memory", "failed"), result
            assert result.stdout == "before\n"
            await arena.assert_usable(executor)

    @pytest.mark.parametrize("how", DISK)
    async def test_disk(self, arena: Arena, how: str) -> None:
        result = await arena.attack(filling(how), verdict="disk", disk="16M", wall_time=40)
        assert result.stdout == "before\n"

    async def test_a_file_beyond_its_limit_is_disk(self, arena: Arena) -> None:
        result = await arena.attack(f"{PRELUDE}fill('a', 20)", verdict="disk", file_size="8M")
        assert result.stdout == "before\n"
        assert [file.size for file in result.files] == [8 << 20]

    async def test_processes_are_capped(self, arena: Arena) -> None:
        code = """
        import os, time
        forked = 0
        print("before", flush=True)
        try:
            while forked < 100:
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                forked += 1
            time.sleep(5)  # where they are counted only now and then
        except OSError:
            pass
        print("forked", forked, flush=True)
        os._exit(5)
        """
        block = arena.python(code)
        async with arena.open(processes=24) as executor:
            if executor.keeps_state:
                pytest.skip("a fork of its interpreter is not a block's")
            # Refused with an error, or ended for it: `failed` both times.
            result = await arena.run(executor, block, verdict="failed")
            count = result.stdout.partition("forked ")[2]
            assert not count or int(count) < 24

    async def test_open_files_are_capped(self, arena: Arena) -> None:
        code = """
        import os
        opened = []
        try:
            while len(opened) < 1000:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            print(error.errno, len(opened) < 128)
        for each in opened: os.close(each)
        """
        assert (await arena.attack(code, open_files=128)).stdout == "24 True\n"
