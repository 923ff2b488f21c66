"""Section F: network and IPC, with the network off."""
# ruff: noqa: E501 - programs are shown as they run

from __future__ import annotations

import socket
import time

import pytest

from sandboxes import CodeBlock
from tests.sandboxes.hostile.arena import Arena

ADDRESSES = {
    "TCP to the host": "connect(AF_INET, SOCK_STREAM, ('127.0.0.1', HOST['port']))",
    "TCP to the host, IPv6": "connect(AF_INET6, SOCK_STREAM, ('::ffff:127.0.0.1', HOST['port']))",
    "TCP to any address of the host": "connect(AF_INET, SOCK_STREAM, ('0.0.0.0', HOST['port']))",
    "TCP to the internet": "connect(AF_INET, SOCK_STREAM, ('1.1.1.1', 443))",
    "TCP to the internet, IPv6": "connect(AF_INET6, SOCK_STREAM, ('2606:4700:4700::1111', 443))",
    "UDP to the internet": "send(AF_INET, ('1.1.1.1', 53))",
    "UDP broadcast": "send(AF_INET, ('255.255.255.255', 9), broadcast=True)",
    "UDP multicast": "send(AF_INET, ('224.0.0.251', 5353))",
    "UDP, IPv6": "send(AF_INET6, ('ff02::1', 9))",
    "ICMP": "socket.socket(AF_INET, SOCK_DGRAM, socket.IPPROTO_ICMP).sendto(b'x' * 64, ('1.1.1.1', 0))",
    "metadata": "connect(AF_INET, SOCK_STREAM, ('169.254.169.254', 80))",
    "metadata, IPv6": "connect(AF_INET6, SOCK_STREAM, ('fd00:ec2::254', 80))",
    "DNS with data in the name": "socket.getaddrinfo('c2VjcmV0.example.com', 80)",
    "abstract socket": "connect(AF_UNIX, SOCK_STREAM, '\\0' + HOST['abstract'])",
    "unix socket": "connect(AF_UNIX, SOCK_STREAM, HOST['path'])",
    "docker": "connect(AF_UNIX, SOCK_STREAM, '/var/run/docker.sock')",
    "containerd": "connect(AF_UNIX, SOCK_STREAM, '/run/containerd/containerd.sock')",
    "D-Bus": "connect(AF_UNIX, SOCK_STREAM, '/run/dbus/system_bus_socket')",
    "X11": "connect(AF_UNIX, SOCK_STREAM, '/tmp/.X11-unix/X0')",
    "X11, abstract": "connect(AF_UNIX, SOCK_STREAM, '\\0/tmp/.X11-unix/X0')",
    "vsock": "socket.socket(40, SOCK_STREAM).connect((2, 1024))",
    "packet socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "raw socket": "socket.socket(AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)",
    "netlink to the kernel's audit": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)",
    "Bluetooth": "socket.socket(31, socket.SOCK_RAW, 1)",
    "kernel cryptography": "socket.socket(38, socket.SOCK_SEQPACKET)",
    "XDP": "socket.socket(44, socket.SOCK_RAW)",
}


@pytest.mark.parametrize("what", ADDRESSES)
async def test_nothing_is_reachable(arena: Arena, what: str) -> None:
    code = f"""
    import socket, time
    from socket import AF_INET, AF_INET6, AF_UNIX, SOCK_DGRAM, SOCK_STREAM
    def connect(family, kind, address):
        with socket.socket(family, kind) as sock:
            sock.settimeout(5)
            sock.connect(address)
    def send(family, address, broadcast=False):
        with socket.socket(family, SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, broadcast)
            sock.sendto(b"x", address)
    started = time.monotonic()
    try:
        {ADDRESSES[what]}
        print("reached")
    except TimeoutError:
        print("timed out")
    except OSError as error:
        print("refused")
    print(time.monotonic() - started < 2)
    """
    assert (await arena.attack(code)).stdout == "refused\nTrue\n"


async def test_datagram_to_the_host_does_not_arrive(arena: Arena) -> None:
    code = """
    import socket
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", HOST["port"]))
    except OSError:
        pass
    """
    async with arena.executor() as executor:
        await arena.run(executor, code)
        time.sleep(0.05)
        arena.canaries.assert_untouched()


async def test_only_a_loopback_of_its_own_is_there(arena: Arena) -> None:
    code = "import socket\nprint([name for _, name in socket.if_nameindex()])\nprint(open('/proc/net/route').read().count('\\n'))"
    assert (await arena.attack(code)).stdout == "['lo']\n1\n"


async def test_listening_inside_is_not_reachable_from_the_host(arena: Arena) -> None:
    code = """
    import socket, time
    listener = socket.create_server(("0.0.0.0", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\\0" + HOST["tag"])
    abstract.listen()
    print(listener.getsockname()[1], flush=True)
    listener.settimeout(0.5)
    try:
        listener.accept()
        print("reached")
    except TimeoutError:
        pass
    """
    tried = []

    def connect(stream: str, data: bytes) -> None:
        if data.strip().isdigit():
            for family, address in (
                (socket.AF_INET, ("127.0.0.1", int(data))),
                (socket.AF_UNIX, f"\0{arena.tag}"),
            ):
                with socket.socket(family) as client:
                    client.settimeout(1)
                    tried.append(client.connect_ex(address))

    result = await arena.attack(code, on_output=connect)
    assert "reached" not in result.stdout
    assert len(tried) == 2
    assert all(tried)


async def test_two_sandboxes_do_not_see_each_other(arena: Arena) -> None:
    async with arena.executor() as executor, arena.backend.open(workspace=arena.workspace) as other:
        import asyncio

        listening = asyncio.Event()
        server = """
        import ctypes, socket, time
        a = socket.socket(socket.AF_UNIX); a.bind("\\0" + HOST["tag"]); a.listen()
        b = socket.create_server(("0.0.0.0", 47999))
        ctypes.CDLL(None).shmget(4242, 4096, 0o1666)
        print("up", flush=True)
        time.sleep(1)
        """
        task = asyncio.create_task(other.run(CodeBlock(arena.source(server)), on_output=lambda *_: listening.set()))
        await asyncio.wait_for(listening.wait(), 10)
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
