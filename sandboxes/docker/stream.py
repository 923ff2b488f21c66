"""The byte stream of an attached container: its input, and its two outputs in one, as the engine's API has them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from sandboxes.docker.engine import Engine
from sandboxes.errors import SandboxStartError, SandboxUnavailable
from sandboxes.sandbox import ByteStream
from sandboxes.stream import MAX_DIAGNOSIS

ATTACH_TIMEOUT = 20.0
_BUFFER = 1 << 20
_HEADER = struct.Struct(">BxxxL")
_STDOUT, _STDERR = 1, 2


class AttachedStream(ByteStream):
    """Standard input and output of a container; its standard error is kept for error messages.

    Args:
        connection: The upgraded connection to the engine.
        end: Ends and removes the container.
    """

    def __init__(self, connection: ByteStream, rest: bytes, end: Callable[[], Awaitable[None]]) -> None:
        self._connection = connection
        self._end = end
        self._closing: asyncio.Task[None] | None = None
        self._header = bytearray()
        self._kind, self._left = 0, 0
        self._printed = bytearray()
        self._waiting = self._demultiplex(rest)

    async def receive(self) -> bytes:
        while not self._waiting:
            data = await self._connection.receive()
            if not data:
                return b""
            self._waiting = self._demultiplex(data)
        data, self._waiting = self._waiting, b""
        return data

    def _demultiplex(self, data: bytes) -> bytes:
        """Return what belongs to standard output; pieces need not be whole."""
        output = bytearray()
        view = memoryview(data)
        while view:
            if not self._left:
                missing = _HEADER.size - len(self._header)
                self._header += view[:missing]
                view = view[missing:]
                if len(self._header) == _HEADER.size:
                    self._kind, self._left = _HEADER.unpack(self._header)
                    self._header.clear()
                continue
            piece = view[: self._left]
            view = view[self._left :]
            self._left -= len(piece)
            if self._kind == _STDOUT:
                output += piece
            elif self._kind == _STDERR:
                self._printed += piece[: MAX_DIAGNOSIS - len(self._printed)]
        return bytes(output)

    async def send(self, data: bytes) -> None:
        await self._connection.send(data)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            await self._end()
        finally:
            await self._connection.close()

    def diagnosis(self) -> str:
        return self._printed.decode("utf-8", "replace").strip()


class SocketStream(ByteStream):
    """A network connection as a byte stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self) -> bytes:
        try:
            return await self._reader.read(1 << 16)
        except (OSError, ssl.SSLError):
            return b""

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.transport.abort()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self._writer.wait_closed()


async def attach(engine: Engine, container: str, end: Callable[[], Awaitable[None]]) -> AttachedStream:
    """Attach to a container, before its start if nothing of it is to be missed.

    docker-py has a call for this, which gives a blocking socket, a different one for each transport; the upgrade
    itself is one request.

    Raises:
        SandboxUnavailable: the engine does not answer.
        SandboxStartError: it refuses.
    """
    connection: ByteStream | None = None
    try:
        async with asyncio.timeout(ATTACH_TIMEOUT):
            connection = await _dial(engine)
            query = "stream=1&stdin=1&stdout=1&stderr=1"
            await connection.send(
                f"POST /v{engine.api_version}/containers/{container}/attach?{query} HTTP/1.1\r\n"
                "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
            )
            answer = b""
            while b"\r\n\r\n" not in answer:
                piece = await connection.receive()
                if not piece or len(answer) > MAX_DIAGNOSIS:
                    raise SandboxStartError(f"cannot attach to the container: {answer[:500]!r}")
                answer += piece
    except BaseException as error:
        if connection is not None:
            await connection.close()
        if isinstance(error, TimeoutError | OSError):
            raise SandboxUnavailable(f"the Docker engine at {engine.url} does not let us attach: {error!r}") from None
        raise
    head, _, rest = answer.partition(b"\r\n\r\n")
    if head.split(None, 2)[1:2] not in ([b"101"], [b"200"]):
        await connection.close()
        raise SandboxStartError(f"cannot attach to the container: {rest.decode('utf-8', 'replace')[:500]}")
    return AttachedStream(connection, rest, end)


async def _dial(engine: Engine) -> ByteStream:
    url = urlsplit(engine.address)
    if url.scheme in ("tcp", "http", "https"):
        context = None
        if engine.tls is not None:
            context = ssl.create_default_context(cafile=engine.tls.ca_cert if engine.tls.verify else None)
            if not engine.tls.verify:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if engine.tls.cert:
                context.load_cert_chain(*engine.tls.cert)
        return SocketStream(*await asyncio.open_connection(url.hostname, url.port or 2375, ssl=context, limit=_BUFFER))
    return SocketStream(*await asyncio.open_unix_connection(url.path, limit=_BUFFER))
