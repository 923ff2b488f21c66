"""The Landlock tier inside an unprivileged container, where user namespaces are forbidden by Docker's seccomp profile."""
# ruff: noqa: E501 - programs are shown as they run

from __future__ import annotations

import json
import site
import subprocess
import sys
from pathlib import Path

import pytest

import sandboxes
from sandboxes.isolation import landlock
from tests.sandboxes.backends import DOCKER, require_engine

PROGRAM = '''
import asyncio, json
from sandboxes import *
BLOCK = """
import os, socket, subprocess
holes = []
for call in (
    lambda: open('/etc/shadow').read(), lambda: open('/repository/README.md'), lambda: os.listdir('/'), lambda: os.kill(1, 0),
    lambda: os.kill(os.getppid(), 9), lambda: socket.socket(), lambda: os.chmod('/repository', 0), lambda: open('/tmp/x', 'w'),
    lambda: open('/proc/1/environ', 'rb').read(), lambda: os.utime('/mine'), lambda: os.truncate('/mine', 0),
):
    try: holes.append(str(call()))
    except OSError: pass
open('a', 'w').close(); os.chmod('a', 0o600)
print(holes, oct(os.stat('a').st_mode), subprocess.run(['echo', 'child'], capture_output=True).stdout)
subprocess.Popen(['sleep', '300'], start_new_session=True)
"""
async def main():
    said = []
    for isolation in ("auto", "landlock"):
        async with open_executor("local", isolation=isolation) as executor:
            result = await executor.run(CodeBlock(BLOCK))
            said.append([result.verdict, result.stdout + result.stderr, result.isolation.tier,
                         result.isolation.mechanisms.get("tier", ""), result.isolation.unenforced])
    try:
        async with open_executor("local", isolation="bwrap"): pass
    except SandboxUnavailable as error:
        said.append(str(error))
    print(json.dumps(said))
asyncio.run(main())
'''


@pytest.mark.parametrize("installed", [False, True], ids=["without bwrap", "with bwrap"])
def test_auto_takes_landlock_and_contains(tmp_path: Path, installed: bool) -> None:
    require_engine(DOCKER.installed() and landlock.usable(), "a Docker engine and Landlock")
    packages = next(path for path in site.getsitepackages() if Path(path).is_dir())
    mine = tmp_path / "mine"
    mine.write_text("content")
    mine.chmod(0o666)
    root = Path(sandboxes.__file__).parent.parent
    mounts = [f"{root}:/repository:ro", f"{packages}:/packages:ro", f"{mine}:/mine"]
    mounts += ["/usr/bin/bwrap:/usr/bin/bwrap:ro"] if installed else []
    ran = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--user", "12345:12345", "--entrypoint", "python3"]
        + [word for mount in mounts for word in ("--volume", mount)]
        + ["--env", "PYTHONPATH=/repository:/packages", "--workdir", "/", "agentexec/python", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=50,
    )
    if "No module named" in ran.stderr:
        pytest.skip(f"the image's Python cannot load the packages of {sys.version_info[:2]}")
    assert ran.returncode == 0, ran.stderr
    automatic, asked, refused = json.loads(ran.stdout)
    for verdict, output, tier, _, unenforced in (automatic, asked):
        assert (verdict, output, tier, unenforced) == ("ok", "[] 0o100600 b'child\\n'\n", "landlock", [])
    assert ("may not create namespaces" if installed else "bwrap is not installed") in automatic[3]
    assert ("may not create namespaces" if installed else "apt-get install bubblewrap") in refused
    assert mine.read_text() == "content"
