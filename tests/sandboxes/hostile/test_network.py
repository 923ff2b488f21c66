"""Section F: network and IPC, with the network off."""
# ruff: noqa: E501 - programs are shown as they run

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from pathlib import Path

import pytest

from sandboxes.conformance.hostile import knock
from sandboxes.conformance.programs import ADDRESSES, LISTEN, REFUSED_AT_ONCE, reach
from sandboxes.isolation.sockets import sockets_in
from tests.sandboxes.hostile.arena import Arena


@pytest.mark.parametrize("what", ADDRESSES)
async def test_nothing_is_reachable(arena: Arena, what: str) -> None:
    assert (await arena.attack(reach(what))).stdout == REFUSED_AT_ONCE


async def test_datagram_to_the_host_does_not_arrive(arena: Arena) -> None:
    code = """
    import socket
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", HOST["port"]))
    except OSError:
        pass
    """
    async with arena.open() as executor:
        await arena.run(executor, code)
        time.sleep(0.05)
        arena.canaries.assert_untouched()


async def test_only_a_loopback_of_its_own_is_there(arena: Arena) -> None:
    code = "import socket\nprint([name for _, name in socket.if_nameindex()])\nprint(open('/proc/net/route').read().count('\\n'))"
    assert (await arena.attack(code)).stdout == "['lo']\n1\n"


async def test_listening_inside_is_not_reachable_from_the_host(arena: Arena) -> None:
    tried: list[int] = []
    result = await arena.attack(LISTEN, on_output=knock(arena.tag, tried))
    assert "reached" not in result.stdout
    assert len(tried) == 2
    assert all(tried)


async def test_two_sandboxes_do_not_see_each_other(arena: Arena) -> None:
    async with arena.open() as executor, arena.row.open(workspace=arena.workspace) as other:
        server = """
        import ctypes, socket, time
        a = socket.socket(socket.AF_UNIX); a.bind("\\0" + HOST["tag"]); a.listen()
        b = socket.create_server(("0.0.0.0", 47999))
        ctypes.CDLL(None).shmget(4242, 4096, 0o1666)
        print("up", flush=True)
        time.sleep(1)
        """
        task = await arena.begin(other, arena.python(server))
        client = """
        import ctypes, socket
        for family, address in ((socket.AF_UNIX, "\\0" + HOST["tag"]), (socket.AF_INET, ("127.0.0.1", 47999))):
            print(socket.socket(family).connect_ex(address) != 0)
        print(ctypes.CDLL(None).shmget(4242, 4096, 0))
        """
        assert (await arena.run(executor, client)).stdout == "True\nTrue\n-1\n"
        assert (await task).ok


async def test_sockets_of_the_block_itself_work(arena: Arena) -> None:
    code = """
    import asyncio, multiprocessing, socket
    a, b = socket.socketpair()
    a.send(b"x"); assert b.recv(1) == b"x"
    server = socket.create_server(("127.0.0.1", 0))
    socket.create_connection(server.getsockname()).close()
    running = asyncio.new_event_loop()  # a loop of its own has sockets too
    running.close()
    with multiprocessing.Pool(2) as pool:
        print(pool.map(abs, [-1, -2]))
    """
    assert (await arena.attack(code)).stdout == "[1, 2]\n"


async def test_sockets_of_the_machine_in_the_workspace_are_not_reachable(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(arena.workspace)
    (arena.workspace / "below").mkdir()
    with contextlib.ExitStack() as opened:
        # By way of a link: the name of a socket has 107 bytes at the most, and a test's directory may have more.
        link = Path(opened.enter_context(tempfile.TemporaryDirectory(dir="/tmp")), "link")
        link.symlink_to(arena.workspace)
        names = {str(link / "below/absolute"): socket.SOCK_STREAM, "relative": socket.SOCK_DGRAM}
        for name, kind in names.items():
            listener = opened.enter_context(socket.socket(socket.AF_UNIX, kind))
            listener.bind(name)
            os.chmod(name, 0o777)
            if kind == socket.SOCK_STREAM:
                listener.listen()
        code = """
        import os, socket
        for name, kind in (("below/absolute", socket.SOCK_STREAM), ("relative", socket.SOCK_DGRAM)):
            try:
                socket.socket(socket.AF_UNIX, kind).connect(name)
                print("reached", name)
            except OSError as error:
                print("refused")
        """
        assert (await arena.attack(code)).stdout == "refused\n" * 2
    assert sorted(os.listdir(arena.workspace)) == ["below", "relative"]


def test_only_sockets_that_somebody_has_are_found() -> None:
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as name,
        socket.socket(socket.AF_UNIX) as left,
        socket.socket(socket.AF_UNIX) as there,
    ):
        place = Path(name)
        (place / "file").touch()
        left.bind(str(place / "left"))
        left.close()
        there.bind(str(place / "a socket"))
        assert sockets_in(place) == ["a socket"]
        assert sockets_in(place / "file") == []
        there.close()
        assert sockets_in(place) == []
