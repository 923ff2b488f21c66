"""What `Executor` promises of files, results and output."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from typing import Any

import pytest

from sandboxes.conformance.arena import Arena
from sandboxes.conformance.programs import UNSAFE
from sandboxes.conformance.suite import Suite
from sandboxes.errors import (
    FileTooLarge,
    LimitNotEnforceable,
    SandboxClosedError,
    SandboxLostError,
    UnknownLanguage,
    UnsafePath,
    WorkspaceFileNotFound,
)
from sandboxes.types import CodeBlock, Limits


class ContractTests(Suite):
    """Files, results and output."""

    # Files

    async def test_a_file_comes_back_as_it_was_put(self, arena: Arena) -> None:
        async with arena.open() as executor:
            for path in ("file.bin", "a/b/c/file.bin", "./with space/é\n-x", "-rf", "x" * 255):
                for data in (b"text\n", b"", bytes(range(256)) * 40, os.urandom(1 << 20)):
                    await executor.put(path, data)
                    assert await executor.get(path) == data, path
            large = os.urandom(5 << 20)
            await executor.put("large", large)
            assert await executor.get("large") == large

    async def test_an_unsafe_path_is_refused_before_anything_is_written(self, arena: Arena) -> None:
        async with arena.open() as executor:
            for path in UNSAFE:
                await arena.assert_unsafe(executor, path)
            await arena.assert_usable(executor)
        assert list(arena.workspace.iterdir()) == []
        assert sorted(os.listdir(arena.workspace.parent)) == ["outside", "workspace"]

    async def test_a_missing_file_is_not_found(self, arena: Arena) -> None:
        async with arena.open() as executor:
            with pytest.raises(WorkspaceFileNotFound):
                await executor.get("no/such/file")
            with pytest.raises(FileNotFoundError):
                await executor.get("nothing")

    async def test_the_size_of_what_is_read_is_bounded(self, arena: Arena) -> None:
        async with arena.open() as executor:
            await executor.put("ten", b"x" * 10)
            assert await executor.get("ten", max_bytes=10) == b"x" * 10
            with pytest.raises(FileTooLarge):
                await executor.get("ten", max_bytes=9)

    async def test_the_size_of_what_is_written_is_bounded(self, arena: Arena) -> None:
        async with arena.open(file_size="1M") as executor:
            with pytest.raises(FileTooLarge):
                await executor.put("big", b"x" * ((1 << 20) + 1))
            with pytest.raises(WorkspaceFileNotFound):
                await executor.get("big")
            await executor.put("small", b"x" * (1 << 20))

    async def test_a_block_reads_what_was_put(self, arena: Arena) -> None:
        block = arena.program("read")
        async with arena.open() as executor:
            await executor.put("given.txt", b"given")
            assert (await executor.run(block)).stdout == "given"

    async def test_what_a_block_writes_is_listed_and_can_be_read(self, arena: Arena) -> None:
        block = arena.program("write")
        async with arena.open() as executor:
            await executor.put("given.txt", b"given")
            (listed,) = (await executor.run(block)).files
            digest = hashlib.sha256(b"made").hexdigest()
            assert (listed.path, listed.size, listed.media_type) == ("made.txt", 4, "text/plain")
            assert listed.sha256 in (digest, None)
            assert await executor.get("made.txt") == b"made"
            assert (await executor.run(arena.backend.hello)).files == ()

    async def test_a_block_with_a_filename_is_saved_under_it(self, arena: Arena) -> None:
        block = arena.program("hello", filename="src/main.txt")
        async with arena.open() as executor:
            assert (await executor.run(block)).stdout == "hello\n"
            assert await executor.get("src/main.txt") == block.code.encode()

    async def test_a_directory_that_is_given_is_used_and_kept(self, arena: Arena) -> None:
        if not arena.backend.host_workspace:
            pytest.skip("it does not work in a directory of this machine")
        block = arena.program("write")
        (arena.workspace / "mine").write_text("mine")
        async with arena.open() as executor:
            assert await executor.get("mine") == b"mine"
            await executor.run(block)
        assert sorted(path.name for path in arena.workspace.iterdir()) == ["made.txt", "mine"]
        assert (arena.workspace / "made.txt").read_text() == "made"

    async def test_only_regular_files_inside_are_given(self, arena: Arena) -> None:
        code = """
        import os, socket
        os.symlink('/etc/passwd', 'link'); os.symlink('/etc', 'dirlink')
        os.mkfifo('fifo')
        os.mkdir('directory'); os.symlink('directory', 'inside')
        try: socket.socket(socket.AF_UNIX).bind('socket')
        except OSError: os.mkfifo('socket')  # where blocks have no sockets
        open('one', 'w').close(); os.link('one', 'two')
        """
        block = arena.python(code)
        async with arena.open() as executor:
            assert (await executor.run(block)).files == ()
            for path in ("link", "dirlink/passwd", "fifo", "directory", "inside/x", "socket", "one", "two"):
                with pytest.raises(UnsafePath):
                    await asyncio.wait_for(executor.get(path), arena.soon)
            for path in ("link", "dirlink/new", "fifo", "directory", "inside/x", "link/x"):
                with pytest.raises(UnsafePath):
                    await asyncio.wait_for(executor.put(path, b"x"), arena.soon)
                with pytest.raises(UnsafePath):
                    await asyncio.wait_for(executor.run(CodeBlock("print(1)", filename=path)), arena.soon)
            await arena.assert_usable(executor)

    # Results

    async def test_what_is_claimed_is_all_that_is_expected(self, arena: Arena) -> None:
        if arena.backend.capabilities is None:
            pytest.skip("no capabilities are stated")
        assert arena.backend.capabilities <= arena.claims

    async def test_a_result_says_what_enforced_its_limits(self, arena: Arena) -> None:
        async with arena.open() as executor:
            result = await executor.run(arena.backend.hello)
            assert result.isolation == executor.isolation
            assert result.isolation.tier not in ("", "unknown")
            assert set(result.isolation.unenforced) <= set(Limits.model_fields)

    async def test_a_result_has_output_times_and_sizes(self, arena: Arena) -> None:
        async with arena.open() as executor:
            result = await executor.run(arena.backend.hello)
        assert (result.verdict, result.ok, result.exit_code, result.signal) == ("ok", True, 0, None)
        assert (result.stdout, result.stdout_bytes, result.stderr, result.stderr_bytes) == ("hello\n", 6, "", 0)
        assert (result.truncated, result.files, result.error) == (False, (), None)
        assert 0 <= result.duration < 10
        assert result.cpu_time is None or 0 <= result.cpu_time < 10
        assert result.peak_memory is None or result.peak_memory > 0

    async def test_standard_error_is_kept_apart(self, arena: Arena) -> None:
        block = arena.program("warn")
        pieces = bytearray()

        def listen(stream: str, data: bytes) -> None:
            assert stream == "stderr"
            pieces.extend(data)

        async with arena.open() as executor:
            result = await executor.run(block, on_output=listen)
        assert (result.stdout, result.stderr, result.stderr_bytes) == ("", "warned\n", 7)
        assert pieces == b"warned\n"

    async def test_output_beyond_the_limit_is_kept_as_head_and_tail(self, arena: Arena) -> None:
        block = arena.program("flood")
        passed = 0

        def count(_: str, data: bytes) -> None:
            nonlocal passed
            passed += len(data)

        async with arena.open(output=1000) as executor:
            result = await executor.run(block, on_output=count)
        assert (result.verdict, result.truncated, result.stdout_bytes) == ("ok", True, 100_000)
        assert result.stdout[:400] == result.stdout[-400:] == "x" * 400
        assert result.stdout.count("x") <= 1000
        assert set(result.stdout) != {"x"}, "where something was left out is not marked"
        assert passed == 100_000  # also what is not kept

    # Output as it comes

    async def test_output_is_passed_on_while_the_block_runs(self, arena: Arena) -> None:
        block = arena.program("nap")
        pieces: list[tuple[str, bytes, float]] = []
        async with arena.open() as executor:
            await arena.assert_usable(executor)
            result = await executor.run(block, on_output=lambda *piece: pieces.append((*piece, time.monotonic())))
            ended = time.monotonic()
        assert (result.stdout, b"".join(piece[1] for piece in pieces)) == ("up\n", b"up\n")
        assert {piece[0] for piece in pieces} == {"stdout"}
        assert ended - pieces[0][2] > 0.1, "on_output is called only at the end"

    async def test_an_exception_of_the_callback_kills_the_block_and_is_passed_on(self, arena: Arena) -> None:
        block = arena.program("wait")
        async with arena.open() as executor:
            # Also what another sandbox says, into which a listener writes.
            for error in (ValueError(), TimeoutError(), SandboxClosedError(), SandboxLostError(), UnknownLanguage()):

                def refuse(*_: object, error: Exception = error) -> None:
                    raise error

                started = time.monotonic()
                with pytest.raises(type(error)) as raised:
                    await executor.run(block, on_output=refuse)
                assert raised.value is error
                assert time.monotonic() - started < arena.soon
                await arena.assert_usable(executor)

    # Languages and limits

    async def test_an_unknown_language_is_refused(self, arena: Arena) -> None:
        async with arena.open() as executor:
            with pytest.raises(UnknownLanguage):
                await executor.run(CodeBlock("x", language="no such language"))
            await arena.assert_usable(executor)

    async def test_further_languages_run(self, arena: Arena) -> None:
        hello = {
            "bash": "echo hello",
            "sh": "echo hello",
            "perl": r'print "hello\n"',
            "javascript": "console.log('hello')",
        }
        async with arena.open() as executor:
            for language in arena.backend.languages:
                if language in hello:
                    result = await executor.run(CodeBlock(hello[language], language=language))
                    assert (result.verdict, result.stdout) == ("ok", "hello\n"), language

    async def test_an_explicit_limit_that_nothing_enforces_is_refused(self, arena: Arena) -> None:
        for name in sorted(set(Limits.model_fields) - arena.claims):
            value: Any = 1.0 if name == "cpu_time" else Limits.model_fields[name].default
            executor = arena.backend.open(Limits(**{name: value}), None)
            with pytest.raises(LimitNotEnforceable, match=name):
                await executor.start()
            await executor.close()
