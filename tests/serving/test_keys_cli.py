"""`shopgraph keys` as it is typed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import shopgraph
from infra.errors import AccessError
from infra.settings import Settings
from serving.keys import FORMAT, Keys, digest


def keys(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(shopgraph.app, ["--home", str(settings.home), "keys", *arguments])


def told(settings: Settings, *arguments: str) -> Any:
    done = keys(settings, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_key_is_told_once_and_then_only_named(settings: Settings) -> None:
    done = keys(settings, "create", "shop-server", "--scope", "recommend", "--scope", "events:write", "--expires", "90d")
    whole = done.stdout.strip()  # alone, so that a shell can take it
    assert FORMAT.fullmatch(whole.encode())
    assert "not shown again" in done.stderr
    (key,) = Keys(settings, "sample").all()
    assert key.digest == digest(whole.encode())
    for shown in (keys(settings, "list").output, json.dumps(told(settings, "list"))):
        assert key.id in shown
        assert "shop-server" in shown
        assert whole.split("_")[2] not in shown
        assert key.digest.hex() not in shown
    (row,) = told(settings, "list")
    assert (row["state"], row["scopes"], row["requests_today"]) == ("live", ["events:write", "recommend"], 0)
    assert "is revoked" in keys(settings, "revoke", "shop-server").output
    (row,) = told(settings, "list")
    assert row["state"] == "revoked"
    assert row["revoked_by"] == row["created_by"]


def test_a_key_for_pages_has_limits_or_a_warning(settings: Settings) -> None:
    page = ("create", "web", "--scope", "events:write", "--origin", "https://Shop.example/", "--origin", "http://localhost:3000")
    made = told(settings, *page, "--rate", "50", "--quota", "100000")
    assert made["key"].startswith(f"sgp_{made['id']}_")
    assert (made["origins"], made["rate"], made["quota"]) == (["http://localhost:3000", "https://shop.example"], 50, 100000)
    keys(settings, "revoke", made["id"])
    assert "without --rate and --quota" in keys(settings, *page).stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("create", "a", "--scope", "all"), "scope: expected one of recommend"),
        (("create", "a", "--scope", "recommend", "--origin", "https://a.example"), "may allow events:write, not recommend"),
        (("create", "a", "--scope", "recommend", "--expires", "soon"), "expires: expected"),
        (("revoke", "nobody"), "has no key 'nobody'; `shopgraph keys list`"),
    ],
)
def test_what_makes_no_sense_is_one_error(settings: Settings, arguments: tuple[str, ...], error: str) -> None:
    done = keys(settings, *arguments)
    assert isinstance(done.exception, AccessError)
    assert error in str(done.exception)
    assert told(settings, "list") == []


def test_an_empty_list_says_what_to_do(settings: Settings) -> None:
    assert "shopgraph keys create" in keys(settings, "list").output
