"""Section B: memory and disk."""
# ruff: noqa: E501 - programs are shown as they run

from __future__ import annotations

import os
import textwrap
import time
import tracemalloc
from pathlib import Path

import pytest

from sandboxes import CodeBlock, Limits
from sandboxes.conformance.programs import DISK, MEMORY, PRELUDE, SHARED_MEMORY, filling
from sandboxes.isolation.cgroups import usable_place
from sandboxes.runner.files import remove_tree, steps
from tests.sandboxes.backends import DOCKER
from tests.sandboxes.hostile.arena import KERNEL, Arena


@pytest.mark.parametrize("how", MEMORY | SHARED_MEMORY)
async def test_memory_limit_holds_the_whole_tree(arena: Arena, how: str) -> None:
    result = await arena.attack(filling(how), verdict="memory", memory="128M", file_size="500M", wall_time=25)
    assert result.stdout == "before\n"
    assert "limit is 128 MiB" in result.message


async def test_memory_of_the_host_is_free_again(arena: Arena) -> None:
    code = PRELUDE + "fill('/dev/shm/a')"
    async with arena.open(memory="128M", file_size="500M") as executor:
        for _ in range(3):
            await arena.run(executor, code, verdict="memory")
            result = await arena.run(executor, "import os; print(os.listdir('/dev/shm'))")
            assert result.stdout == "[]\n"


async def test_exit_status_137_of_a_large_program_is_its_own(arena: Arena) -> None:
    code = "import os; held = bytearray(b'x' * (50 << 20)); os._exit(137)"
    assert (await arena.attack(code, verdict="failed", memory="200M")).exit_code == 137


async def test_forked_copies_count_once(arena: Arena) -> None:
    code = """
    import os, time
    held = bytearray(b"x" * (60 << 20))
    for _ in range(5):
        if os.fork() == 0:
            time.sleep(0.5)
            os._exit(0)
    time.sleep(0.4)
    print("done")
    """
    assert (await arena.attack(code, memory="160M")).stdout == "done\n"


@pytest.mark.parametrize("call", ["semget(0, 32000, 0o1600)", "msgget(0, 0o1600)"])
async def test_kernel_memory_that_nothing_counts_is_refused(arena: Arena, call: str) -> None:
    assert (await arena.attack(f"import ctypes; print(ctypes.CDLL(None).{call})")).stdout == "-1\n"


@pytest.mark.timeout(120)  # thousands of directories take a while on a busy disk
@pytest.mark.parametrize("how", DISK)
async def test_disk_limit_holds_the_workspace(arena: Arena, how: str) -> None:
    result = await arena.attack(filling(how), verdict="disk", disk="16M", file_size="500M", wall_time=50)
    assert result.stdout == "before\n"
    assert "limit is 16 MiB" in result.message


@pytest.mark.parametrize("path", ["/tmp/a", "/var/tmp/a"])
async def test_filling_a_temporary_directory_is_disk(arena: Arena, path: str) -> None:
    async with arena.open(memory="64M") as executor:
        result = await executor.run(arena.python(PRELUDE + f"fill({path!r})"))
        assert (result.verdict, result.stdout) == ("disk", "before\n")
        assert (await executor.run(arena.python(f"import os; os.remove({path!r}); print(1)"))).stdout == "1\n"


async def test_full_temporary_directory_does_not_harm_the_next_block(arena: Arena) -> None:
    async with arena.open(memory="64M") as executor:
        await arena.run(executor, PRELUDE + "fill(TMP + '/a')", verdict="disk")
        # What fails next for a reason of its own is not blamed on the disk that was full before.
        await arena.run(executor, "raise ValueError", verdict="failed")


@pytest.mark.parametrize("directory", ["/", "/dev", "/usr", "/etc", "/proc", "/sys", "/root", "/home", "/run", "/var"])
async def test_nothing_else_is_writable(arena: Arena, directory: str) -> None:
    code = f"""
    import os
    for path, directories, _ in os.walk({directory!r}):
        depth = path.count("/")
        directories[:] = [] if depth > 2 else [
            name for name in directories
            if os.path.join(path, name) not in ("/tmp", "/dev/shm", "/workspace", "/dev/mqueue", "/proc", "/usr", "/var/tmp", "/shared")
        ][:40]
        try:
            with open(os.path.join(path, "new"), "w"):
                print("wrote to", path)
        except OSError:
            pass
    """
    assert (await arena.attack(code)).stdout == ""


async def test_file_larger_than_the_limit_is_disk(arena: Arena) -> None:
    result = await arena.attack(PRELUDE + "fill('a')", verdict="disk", file_size="8M")
    assert result.stdout == "before\n"
    assert [file.size for file in result.files] == [8 << 20]


async def test_file_larger_than_the_limit_is_disk_in_a_shell_too(arena: Arena) -> None:
    block = CodeBlock("echo before; head -c 20000000 /dev/zero > a", language="bash")
    result = await arena.attack(block, verdict="disk", file_size="8M")
    assert result.stdout == "before\n"


async def test_apparent_size_is_refused_or_never_read(arena: Arena) -> None:
    code = """
    import os
    for call in (lambda file: os.ftruncate(file, 1 << 40), lambda file: os.posix_fallocate(file, 0, 1 << 40)):
        file = os.open("huge", os.O_CREAT | os.O_RDWR)
        try:
            call(file)
            print("done")
        except OSError as error:
            print(error.strerror)
        os.close(file)
    """
    assert (await arena.attack(code)).stdout == "File too large\nFile too large\n"


async def test_what_is_there_already_is_tolerated_and_not_added_to(arena: Arena) -> None:
    (arena.workspace / "large").write_bytes(b"x" * (40 << 20))
    async with arena.open(disk="16M") as executor:
        for _ in range(2):
            await arena.run(executor, "import time; time.sleep(0.3)")
        await executor.put("another", b"x" * (20 << 20))
        await arena.run(executor, "import time; time.sleep(0.3)")
        more = "import time\nfor i in range(4): open('more%d' % i, 'wb').write(b'x' * (1 << 20))\ntime.sleep(5)"
        result = await arena.run(executor, more, verdict="disk")
        assert "the limit is 16 MiB" in result.message
        await arena.run(executor, "import os, time\nfor name in os.listdir(): os.remove(name)\ntime.sleep(0.3)")


@pytest.mark.machine  # others beside it write more than it takes to be blamed
async def test_what_others_write_to_the_disk_is_not_the_block_s(arena: Arena) -> None:
    for i in range(2000):  # which take longer to count than the block to start
        (arena.workspace / f"d{i}").mkdir()

    def write(*_: object) -> None:
        (arena.workspace.parent / "other").write_bytes(b"x" * (100 << 20))

    async with arena.open(disk="64M") as executor:
        await arena.run(executor, "import time\nprint('up', flush=True)\ntime.sleep(2)", on_output=write)


async def test_sparse_file_takes_no_space(arena: Arena) -> None:
    code = "import os\nfor i in range(10):\n  with open('s%d' % i, 'w') as f: f.truncate(200 << 20)"
    result = await arena.attack(code, disk="10M")
    assert len(result.files) == 10
    assert [file.sha256 for file in result.files].count(None) >= 9  # hashing is bounded


async def test_tree_deeper_than_any_path_is_bounded_and_removed(arena: Arena) -> None:
    code = """
    import os
    for _ in range(2500):
        os.mkdir("d")
        os.chdir("d")
    """
    await arena.attack(code, wall_time=30)  # Landlock looks at each directory on the way up
    started = time.monotonic()
    remove_tree(str(arena.workspace))
    assert time.monotonic() - started < 20
    assert not arena.workspace.exists()


async def test_throw_away_workspace_is_removed_whatever_is_in_it(arena: Arena) -> None:
    code = """
    import os
    os.makedirs("locked/inner")
    open("locked/inner/file", "w").close()
    os.mkfifo("fifo")
    os.symlink("/", "link")
    open(b"\\xff\\n-rf", "w").close()
    for path in ("locked/inner/file", "locked/inner", "locked", "."):
        os.chmod(path, 0)
    """
    executor = arena.row.open(Limits())
    async with executor:
        assert (await executor.run(arena.python(code))).verdict == "ok"
        workspace = getattr(getattr(executor, "sandbox", None), "workspace", None)
    assert workspace is None or not workspace.exists()


async def test_many_small_files_do_not_delay_the_answer(arena: Arena) -> None:
    code = """
    import os
    for i in range(30000):
        os.close(os.open("f%d" % i, os.O_CREAT))
    while True: pass
    """
    result = await arena.attack(code, verdict="timeout", wall_time=2)
    assert len(result.files) <= 1000


async def test_space_cannot_be_taken_without_writing(arena: Arena) -> None:
    # A call would take all that the disk has at once, and beyond the end of a file under no RLIMIT_FSIZE.
    code = """
    import ctypes, fcntl, os, struct
    libc = ctypes.CDLL(None)
    file = os.open("a", os.O_RDWR | os.O_CREAT)
    os.write(file, b"x")
    for mode in (0, 1, 0x10, 0x11):
        libc.fallocate(file, mode, ctypes.c_long(0), ctypes.c_long(200 << 20))
    space = struct.pack("hhqqiI4i", 0, 0, 0, 200 << 20, 0, 0, 0, 0, 0, 0)
    for command in (0x40305828, 0x4030582A, 0x40305839):
        try: fcntl.ioctl(file, command, space)
        except OSError: pass
    print(os.fstat(file).st_blocks * 512 <= 1 << 20)
    os.posix_fallocate(file, 0, 1 << 20)
    print(os.fstat(file).st_size)
    """
    assert (await arena.attack(code, disk="400M")).stdout == "True\n1048576\n"


@pytest.mark.timeout(150)
async def test_long_paths_fit_into_a_report_and_into_the_runner(arena: Arena) -> None:
    code = """
    import os
    name = "\\U0001f600" * 60
    for _ in range(60): os.mkdir(name); os.chdir(name)
    for i in range(6000): os.close(os.open("f%d" % i, os.O_CREAT))
    os.chdir("/")
    """
    async with arena.open(disk="64M", wall_time=60) as executor:
        result = await arena.run(executor, code)
        assert result.files
        assert sum(len(file.path) for file in result.files) < 1 << 20
        size = "print(next(int(line.split()[1]) for line in open('/proc/%d/status' % os.getppid()) if 'VmHWM' in line))"
        after = await arena.run(executor, f"import os\n{size}")
        assert int(after.stdout) < 100 << 10  # with each path remembered, it was 120 MiB


async def test_locks_on_files_are_memory(arena: Arena) -> None:
    # The kernel has no bound for their number, and no control group counts them.
    code = """
    import fcntl, os, time
    print("before", flush=True)
    os.fork()
    held, end = [], time.monotonic() + 20
    while time.monotonic() < end and len(held) < 200:
        held.append(os.open("l%d-%d" % (os.getpid(), len(held)), os.O_RDWR | os.O_CREAT))
        for at in range(4000, 0, -2): fcntl.lockf(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
    time.sleep(30)
    """
    await arena.attack(code, verdict="memory", memory=(KERNEL if arena.row.keeps_state else 0) + (32 << 20))


@pytest.mark.parametrize("shape", ["wide", "deep"])
def test_walk_over_any_number_of_directories_takes_next_to_no_memory(tmp_path: Path, shape: str) -> None:
    # Both the runner and this process, when it removes a workspace, would grow by gigabytes.
    here = os.open(tmp_path, os.O_RDONLY)
    for count in range(4000):
        name = f"{count}-d"
        os.mkdir(name, dir_fd=here)
        if shape == "deep":
            above, here = here, os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(above)
    os.close(here)
    root = os.open(tmp_path, os.O_RDONLY)
    tracemalloc.start()
    try:
        seen = sum(status is not None for _, _, _, status in steps(root))
        peak = tracemalloc.get_traced_memory()[1]
        first = next(steps(root))
    finally:
        tracemalloc.stop()
        os.close(root)
        remove_tree(str(tmp_path))
    assert seen == 4000
    assert peak < 400 * 4000
    assert first[3] is None  # a caller who has no time left need not wait for the end of a wide directory


async def test_file_of_many_names_takes_its_space_once(arena: Arena) -> None:
    code = """
    import os, time
    with open("a", "wb") as file: file.write(bytes(10 << 20))
    for number in range(20): os.link("a", "b%d" % number)
    time.sleep(0.5)
    """
    await arena.attack(code, disk="16M")


async def test_names_without_content_take_space(arena: Arena) -> None:
    code = """
    import os, time
    open("a", "w").close()
    for number in range(3000): os.link("a", "b%d" % number)
    time.sleep(20)
    """
    await arena.attack(code, verdict="disk", disk="8M")


@pytest.mark.matrix
@pytest.mark.timeout(300)
async def test_a_million_files_are_bounded_and_removed(arena: Arena) -> None:
    code = """
    import os
    for i in range(1000):
        os.mkdir("d%d" % i)
        for j in range(1000):
            os.close(os.open("d%d/%d" % (i, j), os.O_CREAT))
    print("all")
    """
    async with arena.open(wall_time=40, disk="8G") as executor:
        started = time.monotonic()
        result = await executor.run(CodeBlock(textwrap.dedent(code)))
        assert time.monotonic() - started < 40 + 3, result.message
        assert result.stdout == "all\n" or result.verdict in ("disk", "timeout"), result
        assert len(result.files) <= 1000
        await arena.assert_usable(executor)
    started = time.monotonic()
    remove_tree(str(arena.workspace))
    assert not arena.workspace.exists()
    assert time.monotonic() - started < 60


async def test_open_descriptors_are_capped(arena: Arena) -> None:
    code = """
    import os
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        print(error.strerror, held[-1])
    for each in held:
        os.close(each)
    """
    assert (await arena.attack(code, open_files=64)).stdout == "Too many open files 63\n"


async def test_workspace_that_was_made_unusable_is_usable_again(arena: Arena) -> None:
    async with arena.open() as executor:
        for mode in (0, 0o111, 0o444, 0o555):
            await arena.run(executor, f"import os; os.chmod('.', {mode})")
    assert os.stat(arena.workspace).st_mode & 0o700 == 0o700


async def test_locked_directories_do_not_end_the_runner(arena: Arena) -> None:
    places = "('.', tempfile.gettempdir(), '/dev/shm')" if arena.row.namespaces else "('.', tempfile.gettempdir())"
    code = f"import os, tempfile\nfor at in {places}:\n  os.makedirs(at + '/ro/deep'); os.chmod(at + '/ro', 0o400)"
    async with arena.open(memory="128M", file_size="500M") as executor:
        await arena.run(executor, code)
        if arena.row.namespaces:
            await arena.run(executor, PRELUDE + "fill('/dev/shm/a')", verdict="memory")
        await executor.reset()
        code = f"import os, tempfile; print(any(os.path.exists(at + '/ro') for at in {places}))"
        assert (await arena.run(executor, code)).stdout == "False\n"


async def test_meters_start_anew_after_a_reset(arena: Arena) -> None:
    async with arena.open(disk="16M", file_size="500M", memory="64M") as executor:
        for _ in range(3):
            await arena.run(executor, PRELUDE + "fill('a', 20)\ntime.sleep(5)", verdict="disk")
            await executor.reset()
            await arena.run(executor, PRELUDE + "fill(TMP + '/a')", verdict="disk")
            await executor.reset()


@pytest.mark.parametrize("how", ["socket buffers", "directories in memory", "directories in shared memory"])
async def test_kernel_memory_of_a_container_is_the_blocks(arena: Arena, how: str) -> None:
    if arena.row is not DOCKER and usable_place() is None:
        pytest.skip("needs a memory control group")
    if how.startswith("directories") and not arena.row.namespaces:
        pytest.skip("no directory in memory is writable")
    code = {
        "socket buffers": """
import os, socket
kept = []
for _ in range(20):
    if os.fork() == 0:
        break
try:
    while True:
        a, b = socket.socketpair()
        a.setblocking(False)
        kept.append((a, b))
        try:
            while True: a.send(b"x" * 65536)
        except BlockingIOError:
            pass
except OSError:
    pass
import time
time.sleep(5)
""",
        "directories in memory": "import os\nfor i in range(2000000): os.mkdir('/tmp/%d' % i)",
        "directories in shared memory": "import os\nfor i in range(2000000): os.mkdir('/dev/shm/%d' % i)",
    }[how]
    # Containers have a bound on inodes besides, which is reached first.
    verdict = "disk" if arena.row.container and how == "directories in memory" else "memory"
    async with arena.open(memory="100M") as executor:
        for _ in range(3):
            await arena.run(executor, code, verdict=verdict)
            # What it left in memory is gone, or the next one could not run.
            await arena.run(executor, "print('usable')", verdict="ok")
            await executor.reset()


async def test_rank_among_the_processes_to_end_cannot_be_taken_back(arena: Arena) -> None:
    # Each of these is smaller than the runner, and what they fill is nobody's to the kernel.
    if arena.row.keeps_state:
        pytest.skip("the kernel is the largest process there is")
    if arena.row is not DOCKER and usable_place() is None:
        pytest.skip("needs a memory control group")
    code = """
cat > fill.py <<'END'
import socket, time
kept = [socket.socketpair() for _ in range(400)]
for pair in kept:
    pair[0].setblocking(False)
    try:
        while True: pair[0].send(b"x" * 65536)
    except OSError:
        pass
time.sleep(10)
END
echo 0 > /proc/self/oom_score_adj
for _ in 1 2 3 4 5 6; do python3 -S -I fill.py & done
wait
"""
    async with arena.open(memory="64M") as executor:
        for _ in range(2):
            await arena.run(executor, CodeBlock(code, language="bash"), verdict="memory")
