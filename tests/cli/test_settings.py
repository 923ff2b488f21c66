from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from agentexec.errors import SettingsError
from agentexec.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import os

    for name in [name for name in os.environ if name.startswith(("AGENTEXEC_", "OPENAI_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults() -> None:
    settings = load_settings()
    assert settings.model is None
    assert settings.sandbox == "local"
    assert settings.memory is None
    assert settings.plan
    assert settings.approve == "never"


def test_each_source_wins_over_the_one_before(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "agentexec.toml").write_text('model = "from-file"\nmemory = "1M"\ntimeout = 1\ndisk = 4096\n')
    monkeypatch.setenv("AGENTEXEC_MEMORY", "2M")
    monkeypatch.setenv("AGENTEXEC_TIMEOUT", "2")
    settings = load_settings({"timeout": 3.0, "model": None})
    assert (settings.disk, settings.memory, settings.timeout) == (4096, 2 << 20, 3.0)
    assert settings.model == "from-file"


def test_server_and_key_come_from_their_usual_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    settings = load_settings()
    assert settings.base_url == "http://localhost:1/v1"
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sk-secret-0123456789"


def test_key_is_masked_wherever_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    settings = load_settings()
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert "sk-secret" not in shown


def test_empty_variables_count_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTEXEC_MODEL", "")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    settings = load_settings()
    assert settings.model is None
    assert settings.api_key is None


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_settings().model = "other"  # type: ignore[misc]


def test_numbers_and_switches_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTEXEC_MAX_COST", "0.25")
    monkeypatch.setenv("AGENTEXEC_PLAN", "false")
    monkeypatch.setenv("AGENTEXEC_NETWORK", "on")
    settings = load_settings()
    assert settings.max_cost == Decimal("0.25")
    assert not settings.plan
    assert settings.network == "on"


@pytest.mark.parametrize("name", ["api_key", "base_url", "isolation", "network"])
def test_file_may_not_send_the_key_elsewhere_or_weaken_the_sandbox(directory: Path, name: str) -> None:
    (directory / "agentexec.toml").write_text(f'{name} = "none"\n')
    with pytest.raises(SettingsError, match=f"may not set '{name}'.*(OPENAI|AGENTEXEC)_"):
        load_settings()


@pytest.mark.parametrize("workspace", [".", "..", "link"])
def test_file_inside_the_workspace_is_not_read(directory: Path, workspace: str) -> None:
    (directory / "agentexec.toml").write_text('model = "from-the-sandbox"\n')
    (directory / "link").symlink_to(directory)
    assert load_settings(workspace=directory / workspace).model is None
    assert load_settings(workspace=directory / "other").model == "from-the-sandbox"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model =", "not valid TOML"),
        ("plan = 'perhaps'", r"agentexec\.toml: plan cannot be 'perhaps': write true or false"),
        ("max_turns = 'many'", r"agentexec\.toml: max_turns cannot be 'many': write a whole number, such as 20"),
        ("max_turns = 1.5", r"agentexec\.toml: max_turns cannot be 1\.5: write a whole number"),
        ("max_cost = 'free'", r"agentexec\.toml: max_cost cannot be 'free': write USD, such as 1\.50"),
        ("timeout = []", r"agentexec\.toml: timeout cannot be \[\]: write a number, such as 2\.5"),
        ("sandbox = 3", r"agentexec\.toml: sandbox cannot be 3: write text in quotes, such as \"local\""),
        ("timeout = -1", r"agentexec\.toml: timeout cannot be -1: input should be greater than 0"),
        ("modle = 'x'", r"'modle', which is no setting \(did you mean 'model'\?\); it may set .*model"),
        ("memory = 'much'", r"agentexec\.toml: memory cannot be 'much': not a size"),
        ("approve = 'maybe'", "'never', 'always' or 'risky'"),
        ("max_turns = 0", "greater than 0"),
    ],
)
def test_errors_name_the_file(directory: Path, content: str, said: str) -> None:
    (directory / "agentexec.toml").write_text(content + "\n")
    with pytest.raises(SettingsError, match=said):
        load_settings()


def test_errors_name_the_variable_or_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTEXEC_MAX_TURNS", "many")
    with pytest.raises(SettingsError, match="AGENTEXEC_MAX_TURNS: max_turns cannot be 'many'"):
        load_settings()
    with pytest.raises(SettingsError, match="--max-turns: max_turns cannot be -3"):
        load_settings({"max_turns": -3})


def test_unreadable_file(directory: Path) -> None:
    (directory / "agentexec.toml").mkdir()
    with pytest.raises(SettingsError, match="cannot read"):
        load_settings()


def test_every_setting_is_described() -> None:
    described = Settings.__doc__ or ""
    assert [name for name in Settings.model_fields if f"{name}:" not in described] == []
