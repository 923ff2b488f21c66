"""OpenAIModel against a server that is not ours: LiteLLM's proxy, which plays canned replies.

Not run by default, since LiteLLM brings some 100 packages. To run it:

    python3 -m venv /tmp/litellm && /tmp/litellm/bin/pip install 'litellm[proxy]'
    AGENTEXEC_LITELLM=/tmp/litellm/bin/litellm python -m pytest tests/models/test_litellm.py
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentexec.agents.calls import EXECUTE_CODE
from agentexec.errors import ModelError, ModelNotFound
from agentexec.models import CallOptions, ChatMessage, OpenAIModel, ReplyFormat, Retries, ToolCall
from agentexec.models.api import ApiName
from agentexec.solving import solve
from tests.openai_server import OpenAIServer, Said

LITELLM = os.environ.get("AGENTEXEC_LITELLM")
KEY = "sk-litellm-0123456789"
CONFIG = f"""
model_list:
  - model_name: mock-coder
    litellm_params:
      model: openai/gpt-4o-mini
      api_key: none
      mock_response: "FINAL ANSWER: forty-two, by way of LiteLLM."
  - model_name: passed-on
    litellm_params:
      model: openai/gpt-4o-mini
      api_key: none
      api_base: BEHIND
general_settings:
  master_key: {KEY}
"""

pytestmark = [
    pytest.mark.skipif(LITELLM is None, reason="AGENTEXEC_LITELLM does not name a litellm executable"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def behind() -> Iterator[OpenAIServer]:
    """A server to which the proxy passes requests on."""
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, behind: OpenAIServer) -> Iterator[str]:
    """Start the proxy and return its base URL."""
    assert LITELLM is not None
    directory = tmp_path_factory.mktemp("litellm")
    (directory / "config.yaml").write_text(CONFIG.replace("BEHIND", behind.url))
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*"}
    command = [
        LITELLM,
        "--config",
        str(directory / "config.yaml"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(command, cwd=directory, env=env, stdout=log, stderr=log) as process,
    ):
        try:
            _wait(f"http://127.0.0.1:{port}/health/liveliness", process, directory / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + 240  # it loads for long on a busy machine
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            opener.open(url, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


def model(proxy: str, name: str = "mock-coder", key: str = KEY) -> OpenAIModel:
    return OpenAIModel(name, base_url=proxy, api_key=key, retries=Retries(attempts=1))


HELLO = [ChatMessage("system", "You are the coder."), ChatMessage("user", "What is six times seven?")]


async def test_streams_with_usage(proxy: str) -> None:
    pieces: list[str] = []
    speaker = model(proxy)
    answer = await speaker.complete(HELLO, on_text=pieces.append)
    await speaker.close()
    assert answer.text == "".join(pieces) == "FINAL ANSWER: forty-two, by way of LiteLLM."
    assert len(pieces) > 1
    assert answer.usage is not None
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0


async def test_solves_a_task(proxy: str) -> None:
    speaker = model(proxy)
    result = await solve("What is six times seven?", model=speaker, executor="fake", plan=False, review=False)
    await speaker.close()
    assert result.solved, result.message
    assert result.answer == "forty-two, by way of LiteLLM."


async def test_unknown_model(proxy: str) -> None:
    speaker = model(proxy, "nope")
    with pytest.raises(ModelNotFound, match="'nope'"):
        await speaker.complete(HELLO)
    await speaker.close()


async def test_wrong_key(proxy: str) -> None:
    speaker = model(proxy, key="sk-wrong-0123456789")
    with pytest.raises(ModelError) as caught:  # without a database, LiteLLM answers 400 rather than 401
        await speaker.complete(HELLO)
    await speaker.close()
    assert "sk-wrong" not in str(caught.value)


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_tools_formats_and_calls_pass_through(proxy: str, behind: OpenAIServer, api: ApiName) -> None:
    call = ToolCall("c1", "execute_code", '{"language": "python", "code": "1"}')
    behind.replies = {"*": [Said("I run it.", ((call.id, call.name, call.arguments),))]}
    speaker = OpenAIModel("passed-on", base_url=proxy, api_key=KEY, retries=Retries(attempts=1), api=api)
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    options = CallOptions(format=ReplyFormat("answer", schema), tools=(EXECUTE_CODE,))
    asked = [*HELLO, ChatMessage("assistant", "", calls=(call,)), ChatMessage("tool", "1", call_id="c1")]
    pieces: list[str] = []
    answer = await speaker.complete(asked, on_text=pieces.append, options=options)
    await speaker.close()
    assert answer.text == "".join(pieces) == "I run it."
    assert answer.calls == (call,)
    assert answer.usage is not None
    assert answer.usage.output_tokens == 20
    sent = behind.requests[-1]
    assert "json_schema" in str(sent)
    assert "execute_code" in str(sent["tools"])
