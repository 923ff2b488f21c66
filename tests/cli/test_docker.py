"""The command line with real containers: `run`, `solve`, `images`, `clean`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxes.throwaway import PREFIX
from tests.cli.conftest import COMMAND, Cli
from tests.sandboxes.backends import DOCKER, containers, require_engine

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _engine() -> None:
    require_engine(DOCKER.installed(), DOCKER.engine)


def test_run_passes_output_and_status_on(cli: Cli) -> None:
    cli.write("p.py", "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)\n")
    done = cli("run", "-s", "docker", "p.py")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


@pytest.mark.parametrize(
    ("flags", "code", "status"),
    [
        (["--timeout", "0.5"], "while True: pass", 124),
        (["--cpu-time", "0.3"], "while True: pass", 124),
        (["--memory", "64M"], "x = bytearray(b'x' * 300_000_000)", 137),
        (["--file-size", "1M"], "open('a', 'wb').write(bytes(3_000_000))", 137),
    ],
)
def test_limits_have_their_status(cli: Cli, flags: list[str], code: str, status: int) -> None:
    done = cli("run", "-s", "docker", *flags, cli.write("p.py", code))
    assert done.returncode == status, done


def test_results_land_in_the_workspace_as_ones_own(cli: Cli) -> None:
    done = cli("run", "-s", "docker", "--workspace", "out", cli.write("p.py", "open('made', 'w').write('x')"))
    assert done.returncode == 0, done
    assert (cli.directory / "out" / "made").read_text() == "x"
    assert (cli.directory / "out" / "made").stat().st_uid == os.getuid()


def test_json_tells_what_enforced(cli: Cli) -> None:
    done = cli("run", "-s", "docker", "--json", cli.write("p.py", "print(1)"))
    result = json.loads(done.stdout)
    assert (result["verdict"], result["isolation"]["tier"]) == ("ok", "docker")


def test_image_comes_from_spec_environment_and_file(cli: Cli) -> None:
    program = cli.write("p.py", "print(1)")
    for args, env in (
        (["-s", "docker:agentexec/absent"], {}),
        (["-s", "docker"], {"AGENTEXEC_IMAGE": "agentexec/absent"}),
        ([], {"AGENTEXEC_SANDBOX": "docker", "AGENTEXEC_IMAGE": "agentexec/absent"}),
    ):
        done = cli("run", *args, program, env=env)
        assert (done.returncode, done.stdout) == (125, ""), done
        assert "agentexec/absent is not built yet: type 'agentexec images build absent'" in done.stderr
    cli.write("agentexec.toml", 'sandbox = "docker"\nimage = "agentexec/absent"\n')
    assert "agentexec/absent is not built" in cli("run", program).stderr
    assert cli("run", "-s", "docker:agentexec/python", program).stdout == "1\n"


def test_isolation_is_for_the_local_sandbox(cli: Cli) -> None:
    done = cli("run", "-s", "docker", "--isolation", "none", cli.write("p.py", "print(1)"))
    assert done.returncode == 2
    assert "--isolation is not for the sandbox 'docker'" in done.stderr


def test_engine_that_is_down_is_125_with_what_to_type(cli: Cli) -> None:
    done = cli("run", "-s", "docker", cli.write("p.py", ""), env={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    assert (done.returncode, done.stdout) == (125, "")
    assert "no Docker engine answers at unix:///nowhere/docker.sock: start it" in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupted_run_leaves_no_container(cli: Cli) -> None:
    cli.write("p.py", "import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    with cli.start("run", "-s", "docker", "p.py") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(2)
        assert process.wait(10) == 130
        assert containers(process.pid) == []


def test_demo_is_solved_in_a_container(cli: Cli) -> None:
    demo = ROOT / "examples" / "sunspots"
    done = cli(
        "solve",
        (demo / "task.txt").read_text(),
        *("--model", f"replay:{demo / 'recorded.jsonl'}", "--file", str(demo / "sunspots.csv")),
        *("--sandbox", "docker:agentexec/data", "--workspace", "out", "--json"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "solved"
    assert [block["result"]["isolation"]["tier"] for block in result["blocks"]] == ["docker"] * len(result["blocks"])
    assert (cli.directory / "out" / "sunspots.png").read_bytes().startswith(b"\x89PNG")


def test_images_are_listed(cli: Cli) -> None:
    done = cli("images", "list")
    assert done.returncode == 0, done
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert {"agentexec/data", "agentexec/polyglot", "agentexec/python"} <= set(lines)
    assert lines["agentexec/python"].endswith(" MB")


def test_image_is_built_and_unknown_ones_are_refused(cli: Cli) -> None:
    done = cli("images", "build", "python")  # from the engine's cache
    assert (done.returncode, done.stdout) == (0, "agentexec/python\n"), done
    assert "Step 1/" in done.stderr
    done = cli("images", "build", "other")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no image 'other' to build; there are data, polyglot, python" in done.stderr
    done = cli("images", "build", "python", "--base", "agentexec-nothing/nothing")
    assert done.returncode == 125
    assert "cannot build" in done.stderr or "Docker cannot build" in done.stderr


def test_clean_removes_what_a_killed_process_left_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {**cli.env, "TMPDIR": str(temporary)}
    code = (
        "import sys\nfrom sandboxes.docker.engine import Engine\nfrom sandboxes.docker.owners import own_labels\n"
        "from sandboxes.throwaway import ThrowawayDirectory\nkept = ThrowawayDirectory()\nengine = Engine()\n"
        "engine.create('agentexec/python', ['sleep', '9'], {'network_mode': 'none'}, labels=own_labels())\n"
        "print('up', flush=True)\nsys.stdin.read()"
    )
    owners = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        for _ in range(2)
    ]
    for owner in owners:
        assert owner.stdout is not None
        owner.stdout.readline()
    owners[0].kill()
    owners[0].communicate()
    done = subprocess.run([*COMMAND, "clean"], capture_output=True, text=True, env=env)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done
    assert sum(line.startswith("removed container ") for line in lines) == 1, lines
    assert sum(line.startswith(f"removed directory {temporary}/{PREFIX}") for line in lines) == 1, lines
    assert len(containers(owners[1].pid)) == 1, "its owner lives"
    owners[1].kill()
    owners[1].communicate()
    assert "removed container" in subprocess.run([*COMMAND, "clean"], capture_output=True, text=True, env=env).stdout
    done = subprocess.run([*COMMAND, "clean"], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (0, "nothing to remove\n")


def test_clean_without_an_engine_cleans_the_rest(cli: Cli) -> None:
    done = cli("clean", env={"DOCKER_HOST": "unix:///nowhere"})
    assert done.returncode == 0
    assert "Docker is left out: no Docker engine answers" in done.stderr


@pytest.mark.parametrize("program", ["docker_data.py", "warm_pool.py"])
def test_examples_run(program: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / program, tmp_path)
    shutil.copytree(ROOT / "examples" / "sunspots", tmp_path / "sunspots")
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert ("100 jobs in" if program == "warm_pool.py" else "wrote decades.png: image/png") in done.stdout
