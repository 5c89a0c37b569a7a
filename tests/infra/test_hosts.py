"""Which names and addresses mean this machine alone."""

from __future__ import annotations

import pytest

from infra.hosts import is_loopback


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "::ffff:127.0.0.1", "localhost", "LocalHost", "a.localhost"]
)
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "::ffff:10.0.0.1", "fe80::1", "127.1", "127.0.0.1.evil.example",
     "localhost.evil.example", "xlocalhost", "shop.internal", "*"],
)  # fmt: skip
def test_another_one(host: str) -> None:
    assert not is_loopback(host)
