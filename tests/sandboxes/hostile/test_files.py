"""Section D: files and paths."""
# ruff: noqa: E501 - programs are shown as they run

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from sandboxes import CodeBlock, UnsafePath
from sandboxes.conformance.programs import ODD_NAMES, PLANTED_MODULES, UNSAFE, WAYS_OUT, link, links_out
from sandboxes.runner.files import DIRECTORY, Upload, remove_tree
from tests.sandboxes.hostile.arena import Arena


@pytest.mark.parametrize("planted", ["by the block", "by the host"])
async def test_symlink_in_the_workspace_never_leads_out(arena: Arena, planted: str) -> None:
    links = links_out(arena.canaries)
    async with arena.open() as executor:
        if planted == "by the host":
            for name, target in links.items():
                (arena.workspace / name).symlink_to(target)
            code = ""
        else:
            code = link(links)
        code += "\nfor path in ('file', 'directory/canary.txt'):\n    try: print(open(path).read())\n    except OSError: pass"
        result = await arena.run(executor, code)
        assert (result.files, result.stdout) == ((), "")
        for path in WAYS_OUT:
            await arena.assert_unsafe(executor, path)
        await arena.assert_usable(executor)
    arena.canaries.assert_untouched()


async def test_dangling_symlink_is_not_written_through(arena: Arena) -> None:
    async with arena.open() as executor:
        await arena.run(executor, "import os; os.symlink('/tmp/new', 'link'); os.symlink('inside', 'link2')")
        for path in ("link", "link2"):
            await arena.assert_unsafe(executor, path)
        assert (await executor.run(CodeBlock("import os; print(os.listdir('.'))"))).ok


async def test_symlink_that_is_swapped_meanwhile_never_leads_out(arena: Arena) -> None:
    # The swapper is a second sandbox with the same workspace: within one, nothing runs while files are read.
    code = f"""
    import os, time
    outside = {str(arena.canaries.file.parent)!r}
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        os.makedirs("d", exist_ok=True)
        open("d/canary.txt", "w").write("inside")
        os.rename("d", "e")
        os.symlink(outside, "d")
        os.unlink("d")
        os.rename("e", "d")
        os.unlink("d/canary.txt")
        os.symlink(outside + "/canary.txt", "d/canary.txt")
        os.unlink("d/canary.txt")
        os.rmdir("d")
    """
    import asyncio

    async with arena.open() as executor, arena.row.open(workspace=arena.workspace) as other:
        swapper = asyncio.create_task(other.run(arena.python(code)))
        seen = set()
        while not swapper.done():
            for call in (executor.get("d/canary.txt"), executor.put("d/canary.txt", b"put")):
                try:
                    seen.add(await call)
                except Exception as error:
                    seen.add(str(error).encode())
        await executor.run(CodeBlock("pass"))
        await swapper
    assert not any(arena.canaries.secret.encode() in each for each in seen if each)
    arena.canaries.assert_untouched()


async def test_special_files_are_skipped_and_never_opened_blocking(arena: Arena) -> None:
    code = """
    import os, socket, stat
    os.mkfifo("fifo")
    try:
        socket.socket(socket.AF_UNIX).bind("socket")
    except OSError:
        pass
    open("one", "w").write("x")
    os.link("one", "two")
    try:
        os.mknod("device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        print("made a device")
    except OSError:
        pass
    """
    async with arena.open() as executor:
        result = await arena.run(executor, code)
        assert (result.stdout, result.files) == ("", ())
        if not (arena.workspace / "socket").exists():
            with socket.socket(socket.AF_UNIX) as planted:
                planted.bind(str(arena.workspace / "socket"))
        for path in ("fifo", "socket"):
            await arena.assert_unsafe(executor, path)
        for path in ("one", "two"):
            with pytest.raises(UnsafePath):
                await executor.get(path)


async def test_hard_link_to_a_file_outside_is_not_handed_out(arena: Arena) -> None:
    os.link(arena.canaries.file, arena.workspace / "link")
    try:
        async with arena.row.open(workspace=arena.workspace) as executor:
            with pytest.raises(UnsafePath):
                await executor.get("link")
            assert (await executor.run(CodeBlock("import os; os.utime('link')"))).files == ()
    finally:
        os.unlink(arena.workspace / "link")


async def test_odd_names_are_listed_safely(arena: Arena) -> None:
    code = f"for name in {ODD_NAMES!r}: open(name, 'w').write('x')"
    async with arena.open() as executor:
        result = await arena.run(executor, code)
        assert len(result.files) == len(ODD_NAMES)
        listed = {file.path for file in result.files}
        assert listed == {name.decode("utf-8", "backslashreplace") for name in ODD_NAMES}
        assert await executor.get("new\nline") == b"x"
        assert await executor.get("-rf") == b"x"


async def test_unsafe_path_is_refused_before_anything_is_written(arena: Arena) -> None:
    async with arena.open() as executor:
        for path in UNSAFE:
            await arena.assert_unsafe(executor, path)
        await arena.assert_usable(executor)
    assert list(arena.workspace.iterdir()) == []
    assert sorted(os.listdir(arena.workspace.parent)) == ["outside", "workspace"]


async def test_existing_directory_or_symlink_is_no_place_for_a_block(arena: Arena) -> None:
    async with arena.open() as executor:
        await arena.run(executor, "import os; os.mkdir('d'); os.symlink('d', 'l'); open('f', 'w').close()")
        for path in ("d", "l", "l/main.py", "f/main.py"):
            if path == "d" or path.startswith("l"):
                await arena.assert_unsafe(executor, path)
            with pytest.raises(UnsafePath):
                await executor.run(CodeBlock("print('ran')", filename=path))
    assert sorted(os.listdir(arena.workspace)) == ["d", "f", "l"]
    assert os.listdir(arena.workspace / "d") == []


@pytest.mark.parametrize(
    "comment", ["# ../../x", "# filename: ../../x", "#!/bin/sh /etc/passwd", "# /etc/cron.d/x", "# a plan"]
)
async def test_first_line_comment_is_a_comment(arena: Arena, comment: str) -> None:
    async with arena.open() as executor:
        assert (await executor.run(CodeBlock(f"{comment}\nprint(1)"))).stdout == "1\n"
    assert list(arena.workspace.iterdir()) == []


async def test_set_uid_bit_is_stripped(arena: Arena) -> None:
    code = """
    import os
    for mode in (0o4755, 0o2755, 0o6777, 0o4111, 0o6000):
        open("%o" % mode, "w").close()
        for call in (
            lambda: os.chmod("%o" % mode, mode),
            lambda: os.close(os.open("new%o" % mode, os.O_CREAT | os.O_WRONLY, mode)),
            lambda: os.mknod("node%o" % mode, mode),
        ):
            try:
                call()
            except OSError:
                pass
    """
    await arena.attack(code)
    for path in arena.workspace.iterdir():
        assert not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID), path.name


async def test_planted_modules_never_reach_the_runner(arena: Arena) -> None:
    async with arena.open() as executor:
        for path in PLANTED_MODULES:
            await executor.put(path, b"raise SystemExit('planted')")
        result = await executor.run(CodeBlock("open('made', 'w').write('x')"))
        assert ([file.path for file in result.files], result.verdict) == (["made"], "ok")
        assert result.files[0].sha256 is not None
        await executor.restart()
        await arena.assert_usable(executor)
    async with arena.open() as executor:
        await arena.assert_usable(executor)


async def test_planted_names_do_not_stop_the_next_block(arena: Arena) -> None:
    code = """
    import os, re
    own = os.path.basename(__file__)
    stem, suffix = os.path.splitext(own)
    names = {re.sub(r"\\d+", lambda found: str(int(found[0]) + step), own, 1) for step in range(1, 50)} - {own}
    for name in names:
        os.symlink("/etc/passwd", name)
    os.unlink(own)
    os.mkdir(own)
    """
    await arena.attack(code)


async def test_block_that_replaces_its_own_file_harms_nobody(arena: Arena) -> None:
    code = f"""
    import os
    os.unlink(__file__)
    os.symlink({str(arena.canaries.file)!r}, __file__)
    1 / 0
    """
    result = await arena.attack(code, verdict="failed")
    assert "ZeroDivisionError" in result.stderr


async def test_emptied_workspace_goes_on(arena: Arena) -> None:
    async with arena.open() as executor:
        await executor.put("a/b", b"x")
        await arena.run(executor, "import os, shutil\nshutil.rmtree(os.getcwd(), ignore_errors=True)")
        await arena.run(executor, "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')")


async def test_workspace_is_not_replaced(arena: Arena) -> None:
    code = """
    import os
    here = os.getcwd()
    for call in (
        lambda: os.rename(here, here + "-moved"),
        lambda: os.rename(here, "inside"),
        lambda: os.rmdir(here),
        lambda: os.symlink("/etc", here),
        lambda: (os.mkdir("new"), os.rename("new", here)),
        lambda: (os.symlink("/etc", "link"), os.replace("link", here)),
    ):
        try:
            call()
            print("done")
        except OSError:
            pass
    """
    before = arena.workspace.stat().st_ino
    async with arena.open() as executor:
        assert (await arena.run(executor, code)).stdout == ""
        assert arena.workspace.stat(follow_symlinks=False).st_ino == before
        await executor.put("a", b"x")
        assert (arena.workspace / "a").read_bytes() == b"x"


async def test_empty_tuple_or_comment_as_code_is_nothing_special(arena: Arena) -> None:
    async with arena.open() as executor:
        for code in ("", "()", "# only", "\ufeffprint(1)", "print(1)\r\nprint(2)\r\n"):
            assert (await executor.run(CodeBlock(code))).verdict == "ok"
        for code in ("a\0b", "\ud800"):
            assert (await executor.run(CodeBlock(code))).verdict == "failed"
        await arena.assert_usable(executor)


async def test_workspace_that_is_locked_again_and_again_ends_nothing(arena: Arena) -> None:
    if not arena.row.keeps_state:
        pytest.skip("nothing of a block goes on while its files are looked at")
    locker = """
import os
os.makedirs("d/e")
here = os.getcwd()
while True:
    for mode in (0, 0o700): os.chmod(here, mode)
"""
    code = f"""
    import subprocess, sys
    subprocess.Popen([sys.executable, "-c", {locker!r}, HOST["tag"]], start_new_session=True)
    """
    async with arena.open() as executor:
        assert (await executor.run(arena.python(code))).verdict == "ok"
        for number in range(25):
            assert (await executor.run(CodeBlock(f"print({number})"))).stdout == f"{number}\n"
        await executor.reset()
        assert (await executor.run(CodeBlock("import os; print(os.listdir('.'))"))).stdout == "[]\n"


def test_locked_directory_is_emptied_and_removed(tmp_path: Path) -> None:
    place = tmp_path / "workspace"
    (place / "inner").mkdir(parents=True)
    (place / "inner" / "file").touch()
    for path in (place / "inner", place):
        path.chmod(0)
    remove_tree(str(place))
    assert not place.exists()


def test_upload_whose_place_was_taken_meanwhile_leaves_nothing(tmp_path: Path) -> None:
    # By what a kernel has started, which goes on while files are put.
    root = os.open(tmp_path, DIRECTORY)
    try:
        upload = Upload(root, "a")
        upload.write(b"new")
        (tmp_path / "a").mkdir()
        with pytest.raises(OSError, match="directory"):
            upload.finish(keep=True)
    finally:
        os.close(root)
    assert os.listdir(tmp_path) == ["a"]
