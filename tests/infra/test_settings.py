"""Settings: read once, unknown and wrong ones named, secrets hidden."""

from __future__ import annotations

import pytest

from infra import log
from infra.errors import SettingsError
from infra.log import hide_secrets
from infra.settings import Settings, variables


def test_the_environment_is_read_and_overrides_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPGRAPH_SHOP", "my_shop")
    assert Settings.load().shop == "my_shop"
    assert Settings.load(shop="other").shop == "other"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SHOPGRAPH_SHOPP", "x", "SHOPGRAPH_SHOPP"),
        ("SHOPGRAPH_HTTP_PORT", "99999", "SHOPGRAPH_HTTP_PORT"),
        ("SHOPGRAPH_HTTP_PORT", "many", "SHOPGRAPH_HTTP_PORT"),
        ("SHOPGRAPH_SHOP", "../../etc", "SHOPGRAPH_SHOP"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=told):
        Settings.load()


def test_secrets_do_not_show_and_travel_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPGRAPH_FEAST_REGISTRY", "postgresql+psycopg://me:hunter2@db/feast")
    settings = Settings.load()
    assert "hunter2" not in repr(settings)
    assert "hunter2" in settings.environment()["SHOPGRAPH_FEAST_REGISTRY"]
    assert "SHOPGRAPH_FEAST_REGISTRY" not in settings.environment(with_secrets=False)


def test_a_child_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = Settings.load(http_port=8123, shop="other", now="data")
    with variables(parent.environment()):
        assert Settings.load().model_dump(exclude={"home"}) == parent.model_dump(exclude={"home"})
        assert Settings.load().home_path == parent.home_path


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("postgresql://me:hunter2@db/x", "postgresql://me:***@db/x"),
        ("password=hunter2 next", "password=*** next"),
        (f"Bearer sg_abc123abc123_{'aB3' * 14}c refused", "Bearer sg_abc123abc123_*** refused"),
        (f"['sgp_abc123abc123_{'aB3' * 14}c']", "['sgp_abc123abc123_***']"),
        ("no secret here", "no secret here"),
    ],
)
def test_logs_hide_secrets(text: str, hidden: str) -> None:
    assert hide_secrets(text) == hidden


def test_what_a_traceback_tells_is_hidden_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up(json=True)
    try:
        try:
            raise ValueError("cannot reach postgresql://me:hunter2@db/x")
        except ValueError:
            log.get("test").exception("failed")
    finally:
        log.set_up()
    told = capsys.readouterr().err
    assert "ValueError: cannot reach postgresql://me:***@db/x" in told
    assert "hunter2" not in told
