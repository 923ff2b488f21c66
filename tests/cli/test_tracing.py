"""`agentexec solve` sends its spans where OpenTelemetry's variables say, and never waits long for a collector."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.openai_server import Fault, OpenAIServer
from tests.otlp_receiver import OtlpReceiver, attributes

pytestmark = pytest.mark.usefixtures("local")

CODE = "I try.\n\n```python\nprint(6 * 7)\n```\n"


@pytest.fixture
def task(server: OpenAIServer) -> tuple[str, ...]:
    server.replies.update(coder=[CODE, "FINAL ANSWER: 42"])
    return "solve", "What is 6 * 7?", "--no-plan", "--no-review"


def test_spans_and_metrics_reach_a_collector(cli: Cli, task: tuple[str, ...], server: OpenAIServer) -> None:
    server.faults.append(Fault("status", status=503, headers={"Retry-After": "0"}))
    with OtlpReceiver() as collector:
        done = cli(*task, "--timeout", "7", env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    spans = {span.name: span for span in collector.spans()}
    assert set(spans) == {
        "invoke_workflow solve",
        "invoke_agent coder",
        "invoke_agent executor",
        "chat gpt-4o-mini",
        "execute_tool python",
    }
    tool = spans["execute_tool python"]
    assert tool.parent_span_id == spans["invoke_agent executor"].span_id
    found = attributes(tool)
    assert (found["agentexec.verdict"], found["agentexec.isolation"]) == ("ok", "bwrap")
    assert found["agentexec.limit.wall_time"] == 7.0
    assert found["agentexec.cpu_time"] >= 0
    assert found["agentexec.peak_memory"] > 0
    chats = [span for span in collector.spans() if span.name == "chat gpt-4o-mini"]
    assert [event.name for chat in chats for event in chat.events] == ["agentexec.model.retried"]
    assert attributes(chats[0])["server.address"] == "127.0.0.1"
    (resource,) = {
        each.value.string_value
        for request in collector.traces
        for part in request.resource_spans
        for each in part.resource.attributes
        if each.key == "service.name"
    }
    assert resource == "agentexec"
    assert "gen_ai.client.token.usage" in collector.metric_names()
    everything = b"".join(request.SerializeToString() for request in collector.traces)
    assert b"6 * 7" not in everything
    assert b"sk-test" not in everything


def test_service_name_and_switches_are_those_of_opentelemetry(cli: Cli, task: tuple[str, ...]) -> None:
    with OtlpReceiver() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_SERVICE_NAME": "mine",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true",
        }
        assert cli(*task, env=environment).returncode == 0
        assert b"mine" in collector.traces[0].SerializeToString()
        assert b"6 * 7" in b"".join(request.SerializeToString() for request in collector.traces)
        assert collector.metrics == []
        collector.traces.clear()
        for switch in ({"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}):
            assert cli(*task, env={**environment, **switch}).returncode == 0
            assert collector.traces == []


@pytest.mark.parametrize("kind", ["refuses connections", "hangs", "fails"])
def test_a_dead_collector_does_not_hold_the_command(cli: Cli, task: tuple[str, ...], kind: str) -> None:
    with OtlpReceiver(status=503 if kind == "fails" else 200, hang=kind == "hangs") as collector:
        url = collector.url
        if kind == "refuses connections":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                url = f"http://127.0.0.1:{free.getsockname()[1]}"
        plain = time.monotonic()
        assert cli(*task).returncode == 0
        began = time.monotonic()
        done = cli(*task, env={"OTEL_EXPORTER_OTLP_ENDPOINT": url})
        assert (done.returncode, done.stdout) == (0, "42\n")
        assert time.monotonic() - began < (began - plain) + 12  # the SDK alone would wait for a minute or more
    assert f"agentexec: traces were not delivered to {url}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_extra_says_what_to_type(cli: Cli, task: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "site/opentelemetry/exporter/otlp/proto").mkdir(parents=True)
    block = "import sys\nsys.modules['opentelemetry.exporter.otlp.proto.http'] = None\n"
    (tmp_path / "site/sitecustomize.py").write_text(block)
    done = cli(*task, env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(tmp_path / "site")})
    assert (done.returncode, done.stdout) == (0, "42\n")
    assert "pip install 'agentexec-toolkit[otel]'" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
)
def test_what_is_not_supported_is_named(cli: Cli, task: tuple[str, ...], name: str, value: str) -> None:
    done = cli(*task, env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", name: value})
    assert (done.returncode, done.stdout) == (0, "42\n")
    assert name in done.stderr
    assert "Going on without traces" in done.stderr
