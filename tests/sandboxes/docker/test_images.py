"""Our images run what they claim; pulling from a registry, and failing to."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sandboxes import CodeBlock, Limits, SandboxStartError, SandboxUnavailable, open_executor
from sandboxes.docker import images
from sandboxes.docker.engine import Engine, PullProgress
from tests.sandboxes.backends import engine, require_engine

CONFIG = b'{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:%s"]}}' % (
    b"0" * 64
)
LAYER_BYTES = 50_000_000


class SilentRegistry(BaseHTTPRequestHandler):
    """A registry that comes to no answer about the image `x`, and to a part of the one layer of any other."""

    def do_GET(self) -> None:
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        layer = "sha256:" + hashlib.sha256(self.path.split("/")[2].encode()).hexdigest()
        config = "sha256:" + hashlib.sha256(CONFIG).hexdigest()
        parts = [{"digest": config, "size": len(CONFIG)}, {"digest": layer, "size": LAYER_BYTES}]
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": parts[0], "layers": [parts[1]]}
        with contextlib.suppress(OSError):
            if self.path == "/v2/":
                self._answer(b"", 0)
            elif self.path.startswith("/v2/x/"):
                self._stall()
                self._answer(b"", 0, status=404)
            elif "/manifests/" in self.path:
                self._answer(data := json.dumps(manifest).encode(), len(data), kind)
            elif self.path.endswith(config):
                self._answer(CONFIG, len(CONFIG))
            else:
                self._answer(bytes(LAYER_BYTES // 10), LAYER_BYTES)
                self._stall()
                self.close_connection = True

    def _answer(self, data: bytes, size: int, kind: str = "application/octet-stream", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _stall(self) -> None:
        self.server.asked.set()  # type: ignore[attr-defined]
        self.server.over.wait(60)  # type: ignore[attr-defined]

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def silent() -> Iterator[tuple[str, threading.Event]]:
    """The name of an image whose pull takes a minute, and what is set once it has begun."""
    with ThreadingHTTPServer(("127.0.0.1", 0), SilentRegistry) as server:
        server.asked, server.over = threading.Event(), threading.Event()  # type: ignore[attr-defined]
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"127.0.0.1:{server.server_address[1]}/x", server.asked  # type: ignore[attr-defined]
        server.over.set()  # type: ignore[attr-defined]
        server.shutdown()
        serving.join()


POLYGLOT = {
    "python": "print(sum(range(5)))",
    "bash": "echo $((1 + 2 + 3 + 4))",
    "sh": "echo $((1 + 2 + 3 + 4))",
    "javascript": "console.log([1, 2, 3, 4].reduce((a, b) => a + b))",
    "perl": 'my $s = 0; $s += $_ for 1..4; print "$s\\n";',
    "ruby": "puts (1..4).sum",
    "r": "cat(sum(1:4), '\\n', sep = '')",
    "php": '<?php echo array_sum(range(1, 4)), "\\n";',
    "lua": "local s = 0; for i = 1, 4 do s = s + i end; print(s)",
    "java": "class Sum { public static void main(String[] a) { "
    "System.out.println(java.util.stream.IntStream.rangeClosed(1, 4).sum()); } }",
    "go": 'package main\nimport "fmt"\nfunc main() { s := 0; for i := 1; i < 5; i++ { s += i }; fmt.Println(s) }',
    "rust": 'fn main() { println!("{}", (1..=4).sum::<i32>()); }',
    "c": '#include <stdio.h>\n#include <math.h>\nint main(void) { printf("%d\\n", (int)sqrt(100.0)); return 0; }',
    "c++": "#include <iostream>\n#include <numeric>\n#include <vector>\n"
    "int main() { std::vector<int> v{1, 2, 3, 4}; std::cout << std::accumulate(v.begin(), v.end(), 0) << std::endl; }",
}
COMPILE_ERRORS = {
    "c": "int main(void) { return nothing; }",
    "c++": "int main() { return nothing; }",
    "go": "package main\nfunc main() { nothing() }",
    "rust": "fn main() { nothing(); }",
    "java": "class A { public static void main(String[] a) { nothing(); } }",
}


@pytest.fixture
def polyglot() -> str:
    return have("polyglot")


def have(name: str) -> str:
    with Engine() as own:
        require_engine(own.image(f"agentexec/{name}") is not None, f"the image agentexec/{name}")
    return f"docker:agentexec/{name}"


def test_a_program_for_every_language_there_is() -> None:
    from sandboxes import LANGUAGES

    assert {row.name for row in LANGUAGES} == set(POLYGLOT)


async def test_polyglot_runs_every_language(polyglot: str) -> None:
    async with open_executor(polyglot, limits=Limits(memory="2G", wall_time=60)) as executor:
        for language, code in POLYGLOT.items():
            result = await executor.run(CodeBlock(code, language=language))
            assert (result.verdict, result.stdout, result.stderr) == ("ok", "10\n", ""), (language, result)
            assert result.files == (), language


async def test_compile_error_is_failed_with_the_compilers_words(polyglot: str) -> None:
    async with open_executor(polyglot, limits=Limits(memory="2G", wall_time=60)) as executor:
        for language, code in COMPILE_ERRORS.items():
            result = await executor.run(CodeBlock(code, language=language))
            assert (result.verdict, result.stdout) == ("failed", ""), (language, result)
            assert "nothing" in result.stderr
            assert result.exit_code not in (0, None)


async def test_compiled_program_has_its_own_exit_status_input_and_name(polyglot: str) -> None:
    async with open_executor(polyglot) as executor:
        code = '#include <stdio.h>\nint main(void) { puts("said"); fflush(stdout); return getchar() == EOF ? 7 : 0; }'
        result = await executor.run(CodeBlock(code, language="c", filename="src/main.c"))
        assert (result.verdict, result.exit_code, result.stdout) == ("failed", 7, "said\n")
        assert [file.path for file in result.files] == ["src/main.c"]
        crash = await executor.run(CodeBlock("int main(void) { return *(volatile int *)0; }", language="c"))
        assert (crash.verdict, crash.signal) == ("failed", 11)


async def test_data_plots_fits_and_speaks_jupyter() -> None:
    code = """
import ipykernel, numpy as np, pandas as pd, matplotlib.pyplot as plt
from sklearn.linear_model import LinearRegression
frame = pd.DataFrame({"x": np.arange(10.0), "y": 2 * np.arange(10.0) + 1})
fit = LinearRegression().fit(frame[["x"]], frame["y"])
plt.plot(frame.x, frame.y, label="Größe")
plt.legend()
plt.savefig("plot.png")
print(round(fit.coef_[0], 3), round(fit.intercept_, 3))
"""
    async with open_executor(have("data"), limits=Limits(memory="2G")) as executor:
        result = await executor.run(CodeBlock(code))
        assert (result.verdict, result.stdout, result.stderr) == ("ok", "2.0 1.0\n", "")
        assert [(file.path, file.media_type) for file in result.files] == [("plot.png", "image/png")]
        assert (await executor.get("plot.png")).startswith(b"\x89PNG")


async def test_python_has_what_most_tasks_need() -> None:
    code = "import pytest, requests, yaml; import subprocess as s; print(s.run(['git', '--version']).returncode)"
    async with open_executor(have("python")) as executor:
        result = await executor.run(CodeBlock(code))
        assert result.stdout.endswith("0\n"), result


def test_images_are_told_by_their_dockerfiles() -> None:
    assert images.names() == ["data", "polyglot", "python"]
    with (
        Engine() as own,
        pytest.raises(SandboxUnavailable, match="no image 'other' to build; there are data, polyglot"),
    ):
        images.build(own, "other", None, print)


def test_build_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM agentexec/python\nRUN echo here it goes && exit 7\n")
    lines: list[str] = []
    with (
        Engine() as own,
        pytest.raises(
            SandboxStartError,
            match=r"(?s)cannot build agentexec-test-broken: .*returned a non-zero code: 7.*here it goes",
        ),
    ):
        own.build(str(tmp_path), "agentexec-test-broken", {}, lines.append)
    assert any("here it goes" in line for line in lines)


# Registries


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry of our own on the loopback interface; gives its address."""
    program = shutil.which("docker-registry")
    require_engine(program is not None, "docker-registry")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (tmp_path / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    server = subprocess.Popen([str(program), "serve", str(tmp_path / "config.yml")], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.02)
    yield f"127.0.0.1:{port}"
    server.terminate()
    server.wait()


@pytest.mark.timeout(180)
async def test_absent_image_is_pulled_with_progress(registry: str, private_engine_url: str) -> None:
    name = f"{registry}/some/python:3"
    with engine() as client:
        client.tag("agentexec/base", f"{registry}/some/python", "3")
        try:
            pushed = list(client.push(f"{registry}/some/python", tag="3", stream=True, decode=True))
            assert not any("error" in line for line in pushed), pushed[-1]
        finally:
            client.remove_image(name)
    seen: list[PullProgress] = []
    async with open_executor(f"docker:{name}", url=private_engine_url, on_pull=seen.append) as executor:
        assert (await executor.run(CodeBlock("print(1)"))).stdout == "1\n"
    assert seen[-1].finished
    assert seen[-1].done == seen[-1].total > 1_000_000
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    seen.clear()
    async with open_executor(f"docker:{name}", url=private_engine_url, on_pull=seen.append):
        assert seen == [], "it is there now"
    with pytest.raises(
        SandboxUnavailable, match=r"some/nothing is not in the engine, and cannot be pulled \(.*(not found|unknown)"
    ):
        await open_executor(f"docker:{registry}/some/nothing", url=private_engine_url).start()


@pytest.fixture
def private_engine_url(request: pytest.FixtureRequest) -> str:
    if os.geteuid() != 0:
        pytest.skip("only root can start a Docker engine")
    return str(request.getfixturevalue("private_engine").url)


async def test_nobody_waits_for_a_pull_that_is_no_longer_wanted(silent: tuple[str, threading.Event]) -> None:
    image, asked = silent
    executor = open_executor("docker", image=image)
    task = asyncio.create_task(executor.start())
    await asyncio.to_thread(asked.wait, 20)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    task = asyncio.create_task(executor.start())
    await asyncio.sleep(0.1)
    await asyncio.wait_for(executor.close(), 5)
    with pytest.raises(SandboxUnavailable, match="its pull was given up"):
        await task


def test_control_c_ends_a_pull(silent: tuple[str, threading.Event], tmp_path: Path) -> None:
    image, asked = silent
    (tmp_path / "p.py").write_text("print(1)")
    command = [sys.executable, "-m", "agentexec", "run", "--sandbox", f"docker:{image}", str(tmp_path / "p.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        asked.wait(20)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, (b"", b"agentexec: cancelled: interrupted\n"))


async def test_the_end_of_a_pull_that_is_given_up_is_told(silent: tuple[str, threading.Event]) -> None:
    image = silent[0].removesuffix("x") + f"slow-{secrets.token_hex(4)}"
    told: list[PullProgress] = []
    executor = open_executor("docker", image=image, on_pull=told.append)
    task = asyncio.create_task(executor.start())
    async with asyncio.timeout(20):
        while not told:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert [each.finished for each in told] == [False] * (len(told) - 1) + [True]
