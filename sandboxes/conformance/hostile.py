"""What code inside may try, in Python. Each test says what is claimed that it is about."""

from __future__ import annotations

import os
import socket
import time

import pytest

from sandboxes.conformance.arena import Arena
from sandboxes.conformance.programs import (
    ADDRESSES,
    ADMINISTRATION,
    DAEMONS,
    ENDLESS_FLOOD,
    FLOODS,
    LEFT_RUNNING,
    LISTEN,
    MARKUP,
    NASTY,
    ODD_NAMES,
    PLANTED_MODULES,
    REFUSED_AT_ONCE,
    SPAWN,
    SPLIT_CHARACTERS,
    SPLIT_TEXT,
    WAYS_OUT,
    administer,
    link,
    links_out,
    pickled,
    reach,
)
from sandboxes.conformance.suite import Suite
from sandboxes.types import OnOutput, Stream


def knock(tag: str, answers: list[int]) -> OnOutput:
    """Return a listener that tries to connect from outside to what `LISTEN` opens, and keeps the error numbers."""

    def connect(stream: str, data: bytes) -> None:
        if data.strip().isdigit():
            for family, address in ((socket.AF_INET, ("127.0.0.1", int(data))), (socket.AF_UNIX, f"\0{tag}")):
                with socket.socket(family) as client:
                    client.settimeout(1)
                    answers.append(client.connect_ex(address))

    return connect


class HostileTests(Suite):
    """Code that tries to get out, to stay, or to break what runs it."""

    # Processes

    @pytest.mark.parametrize("how", LEFT_RUNNING)
    async def test_what_is_left_running_dies_with_its_block(self, arena: Arena, how: str) -> None:
        block = arena.python(f"import os, subprocess\nprint('before', flush=True)\n{LEFT_RUNNING[how]}")
        async with arena.open("kill") as executor:
            if executor.keeps_state:
                pytest.skip("what a cell starts lives as long as the state")
            result = await arena.run(executor, block)
            assert (result.stdout, result.duration < 5) == ("before\n", True)  # nobody waits for it

    async def test_daemons_die_at_a_timeout(self, arena: Arena) -> None:
        block = arena.python(DAEMONS)
        async with arena.open("kill", wall_time=0.7) as executor:
            if executor.keeps_state:
                pytest.skip("what a cell starts lives as long as the state")
            await arena.run(executor, block, verdict="timeout")

    async def test_what_runs_dies_with_the_executor(self, arena: Arena) -> None:
        block = arena.python(
            f"import subprocess, time\n{SPAWN}, start_new_session=True)\nprint('up', flush=True)\ntime.sleep(60)"
        )
        async with arena.open("kill") as executor:
            task = await arena.begin(executor, block)
            await executor.close()
            await task

    async def test_killing_everybody_harms_only_itself(self, arena: Arena) -> None:
        block = arena.python("import os\nprint('before', flush=True)\nos.kill(-1, 9)\nprint('after')")
        async with arena.open("filesystem", "kill") as executor:  # else it would be this machine's everybody
            if executor.keeps_state:
                pytest.skip("the state's process is one of them")
            result = await executor.run(block)
            assert result.verdict in ("ok", "failed")
            assert result.stdout.startswith("before\n")
            await arena.assert_usable(executor)

    async def test_input_is_at_its_end(self, arena: Arena) -> None:
        assert (await arena.attack("import os; print(os.read(0, 1))")).stdout == "b''\n"

    # Output

    @pytest.mark.parametrize("how", FLOODS)
    async def test_flood_keeps_head_and_tail_and_takes_no_memory(self, arena: Arena, how: str) -> None:
        out, err, code = FLOODS[how]
        result = await arena.attack(code, output="10K", wall_time=20)
        assert (result.stdout_bytes, result.stderr_bytes, result.truncated) == (out, err, True)
        assert max(len(result.stdout), len(result.stderr)) < 10.5 * 1024

    async def test_flood_to_a_slow_listener_is_ended_in_time(self, arena: Arena) -> None:
        def slow(stream: Stream, data: bytes) -> None:
            time.sleep(0.002)

        await arena.attack(ENDLESS_FLOOD, verdict="timeout", wall_time=0.5, on_output=slow)

    @pytest.mark.parametrize("name", NASTY)
    async def test_output_of_any_bytes_is_text(self, arena: Arena, name: str) -> None:
        written, text = NASTY[name]
        result = await arena.attack(f"import os\nos.write(1, {written!r}); os.write(2, {written!r})")
        assert (result.stdout, result.stderr, result.stdout_bytes) == (text, text, len(written))

    async def test_character_that_is_split_across_writes_is_whole(self, arena: Arena) -> None:
        assert (await arena.attack(SPLIT_CHARACTERS)).stdout == SPLIT_TEXT

    async def test_markup_and_forged_ends_are_plain_output(self, arena: Arena) -> None:
        assert (await arena.attack(f"print({MARKUP!r}, end='')")).stdout == MARKUP

    async def test_pickle_in_the_output_stays_bytes(self, arena: Arena) -> None:
        await arena.attack(pickled(str(arena.canaries.file.parent / "pickled")))
        assert "pickled" not in os.listdir(arena.canaries.file.parent)

    # Files

    async def test_symlink_in_the_workspace_never_leads_out(self, arena: Arena) -> None:
        block = arena.python(link(links_out(arena.canaries)))
        async with arena.open() as executor:
            assert (await arena.run(executor, block)).files == ()
            for path in WAYS_OUT:
                await arena.assert_unsafe(executor, path)

    async def test_odd_names_are_listed_safely(self, arena: Arena) -> None:
        block = arena.python(f"for name in {ODD_NAMES!r}: open(name, 'w').write('x')")
        async with arena.open() as executor:
            listed = {file.path for file in (await arena.run(executor, block)).files}
            assert listed == {name.decode("utf-8", "backslashreplace") for name in ODD_NAMES}
            assert await executor.get("new\nline") == await executor.get("-rf") == b"x"

    async def test_planted_modules_reach_no_other_block(self, arena: Arena) -> None:
        async with arena.open() as executor:
            if executor.keeps_state:
                pytest.skip("a kernel's own imports are a cell's to shadow")
            for name in PLANTED_MODULES:
                await executor.put(name, b"raise SystemExit('planted')")
            await arena.assert_usable(executor)
            await executor.restart()
            await arena.assert_usable(executor)

    async def test_removed_workspace_goes_on(self, arena: Arena) -> None:
        code = "import os, shutil\nshutil.rmtree(os.getcwd(), ignore_errors=True)"
        block = arena.python(code)
        async with arena.open("filesystem") as executor:  # else it could remove the directory itself
            await executor.put("a/b", b"x")
            await executor.run(block)
            await arena.assert_usable(executor)

    # Secrets and the host

    async def test_environment_holds_nothing_of_the_host(self, arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"):
            monkeypatch.setenv(name, arena.canaries.secret)
        code = """
        import os
        print(dict(os.environ))
        for pid in ("self", str(os.getppid())):
            try: print(open(f"/proc/{pid}/environ", "rb").read())
            except OSError: pass
        """
        assert (await arena.attack(code)).stdout.startswith("{")

    async def test_files_of_the_host_are_not_there(self, arena: Arena) -> None:
        code = """
        import os
        for call in (os.listdir, os.stat, lambda path: open(path).read(), lambda path: open(path, "a")):
            for path in (HOST["secret_file"], os.path.dirname(HOST["secret_file"])):
                try:
                    call(path)
                    print("reached", path)
                except OSError:
                    pass
        """
        assert (await arena.attack(code, "filesystem")).stdout == ""

    async def test_processes_of_the_host_are_out_of_reach(self, arena: Arena) -> None:
        code = """
        import os, signal
        for name in ("environ", "mem", "maps", "root/etc", "cwd/."):
            try:
                with open(f"/proc/{HOST['pid']}/{name}", "rb") as file:
                    if file.read(1): print("read", name)
            except OSError:
                pass
        try:
            with open(f"/proc/{HOST['pid']}/cmdline", "rb") as file:
                if b"pytest" in file.read(): os.kill(HOST["pid"], signal.SIGCONT); print("signalled")
        except OSError:
            pass
        """
        assert (await arena.attack(code, "filesystem", "system calls")).stdout == ""

    async def test_no_descriptor_is_inherited(self, arena: Arena) -> None:
        code = """
        import os
        for number in range(3, 64):
            try:
                if HOST["secret_file"] in os.readlink(f"/proc/self/fd/{number}"): print("there", number)
            except OSError:
                pass
        """
        secret = os.open(arena.canaries.file, os.O_RDONLY)
        try:
            os.set_inheritable(secret, True)
            assert (await arena.attack(code)).stdout == ""
        finally:
            os.close(secret)

    # Network and kernel

    @pytest.mark.parametrize("what", ADDRESSES)
    async def test_nothing_is_reachable(self, arena: Arena, what: str) -> None:
        assert (await arena.attack(reach(what), "network")).stdout == REFUSED_AT_ONCE

    async def test_listening_inside_is_not_reachable_from_the_host(self, arena: Arena) -> None:
        tried: list[int] = []
        result = await arena.attack(LISTEN, "network", on_output=knock(arena.tag, tried))
        assert "reached" not in result.stdout
        assert all(tried)

    @pytest.mark.parametrize("what", ADMINISTRATION)
    async def test_administration_is_refused(self, arena: Arena, what: str) -> None:
        words = (await arena.attack(administer(what), "system calls")).stdout.split()
        assert words[0] == "-1"
        assert words[1] != "0"

    async def test_no_new_privileges(self, arena: Arena) -> None:
        code = """
        for line in open("/proc/self/status"):
            if line.startswith(("CapEff", "NoNewPrivs")): print(line.split()[1].strip("0") or "0")
        """
        assert (await arena.attack(code, "system calls")).stdout == "0\n1\n"
