"""Who is let in: the gateway asks here before it reads a body. All is decided in memory; a thread follows the database.

The last known keys hold for as long as the database is away. A key that is revoked is refused within two seconds.
"""

from __future__ import annotations

import hmac
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from infra import log
from infra.hosts import is_loopback
from infra.settings import Settings
from serving.keys import DAY_S, FORMAT, SECRET, Key, Keys, digest
from serving.limits import Bucket, DayCounts
from serving.metrics import Metrics
from serving.problems import Problem
from serving.scopes import ALL, NEEDS

Headers = Mapping[bytes, bytes]

POLL_S = 1.0
_NOBODY = bytes(32)
"""Compared with where there is no key of that id: the digest of no key that could be found."""
_REALM = 'Bearer realm="shopgraph"'
_HOST = re.compile(rb"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_PREFLIGHT_S = 600
"""How long a browser need not ask again what a page may send; a revoked key is refused all the same."""
_READABLE = "retry-after, ratelimit, ratelimit-policy, traceparent, x-request-id"
_SENDABLE = "authorization, content-type, traceparent, x-api-key, x-request-id, x-request-timeout-ms, x-session-id"


@dataclass(frozen=True)
class Caller:
    """Who was let in.

    Args:
        key_id: of the key that was shown; None: none was needed.
        headers: what the answer says to that caller, whatever becomes of the request.
        is_preflight: a browser that asks what a page may send; that is all there is to answer.
    """

    key_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_preflight: bool = False

    @property
    def context(self) -> dict[str, str]:
        """What logs of the request say of the caller."""
        return {"key_id": self.key_id} if self.key_id else {}


ANYBODY = Caller()


class Access:
    """The keys of a shop as one replica knows them.

    Args:
        keys: where they are kept.
        settings: whether keys are needed, and among how many replicas the rates are shared.
        metrics: where refusals are counted.
        now: the time, in seconds since 1970; quotas and ends of keys go by it.
        ticks: seconds of a clock that never goes back; rates go by it.
    """

    def __init__(
        self,
        keys: Keys,
        settings: Settings,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keys = keys
        self.metrics = metrics
        self.has_polled = threading.Event()
        """Set once the keys have been read."""
        self._now = now
        self._ticks = ticks
        self._replicas = settings.http_replicas
        self._is_optional = settings.http_keys == "optional"
        self._is_open_here = settings.http_keys == "auto" and is_loopback(settings.http_host)
        self._held: dict[bytes, _Held] = {}
        self._pages: dict[bytes, frozenset[str]] = {}
        """Origin -> the scopes that its pages may have."""
        self._counts = DayCounts()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="keys", daemon=True)

    def start(self) -> None:
        """Begin to follow the keys; to be called once."""
        self._thread.start()

    def stop(self) -> None:
        """Follow no more; what was counted is told once more, at most 10 s."""
        self._stop.set()
        self._thread.join(timeout=10)

    def enter(self, scope: Mapping[str, Any], headers: Headers) -> Caller:
        """Let a request in; it counts from now on.

        Raises:
            Problem: it shows no key that is good for this, or has asked as much as it may.
        """
        need = NEEDS.get(scope["path"])
        if need is None:
            return ANYBODY
        try:
            if scope["method"] == "OPTIONS" and b"origin" in headers:
                return self._preflight(need, headers[b"origin"])
            shown = _shown(headers)
            if shown is None and (self._is_optional or (self._is_open_here and _is_from_here(scope, headers))):
                return ANYBODY
            return self._check(self._find(shown), need, headers)
        except Problem as problem:
            problem.headers |= self._cors(headers.get(b"origin"))
            raise

    def poll(self) -> None:
        """Look at the keys once, and tell what was counted.

        Raises:
            EngineError: the database does not answer.
        """
        day = _day(self._now())
        untold = self._counts.take_untold()
        try:
            keys, used = self.keys.look(untold, day)
        except BaseException:
            self._counts.keep(untold)
            raise
        self._counts.know(used, day)
        held: dict[bytes, _Held] = {}
        pages: dict[bytes, frozenset[str]] = {}
        for key in keys:
            known = self._held.get(key.id.encode())
            held[key.id.encode()] = known if known and known.key == key else self._hold(key)
            if not key.revoked_at:
                for origin in key.origins:
                    pages[origin.encode()] = pages.get(origin.encode(), frozenset()) | frozenset(key.scopes)
        self._held, self._pages = held, pages
        self.has_polled.set()

    def _find(self, shown: bytes | None) -> _Held:
        """The key that was shown. Whoever shows none that holds learns no more: neither which ids there are nor what became of one."""
        if shown is None:
            raise self._refused(
                "none",
                "unauthorized",
                f"send a key as `authorization: Bearer {SECRET}_...` or `x-api-key`; `shopgraph keys create` makes one.",
                {"www-authenticate": _REALM},
            )
        if not self.has_polled.is_set():
            raise self._refused("not read", "keys-unknown", "the database of the keys is away; try again.", {"retry-after": "1"})
        parts = FORMAT.fullmatch(shown)
        held = self._held.get(parts[1]) if parts else None
        is_right = parts is not None and hmac.compare_digest(digest(shown), held.key.digest if held else _NOBODY)
        if held and is_right and not held.key.revoked_at and self._now() < held.ends_at:
            return held
        if parts is None:
            reason = "malformed"
        elif held is None or not is_right:
            reason = "unknown"
        else:
            reason = "revoked" if held.key.revoked_at else "expired"
        raise self._refused(
            reason,
            "unauthorized",
            "the key that was sent does not hold: it is mistyped, unknown, revoked or expired.",
            {"www-authenticate": f'{_REALM}, error="invalid_token"'},
        )

    def _check(self, held: _Held, need: str, headers: Headers) -> Caller:
        key = held.key
        if key.origins and headers.get(b"origin") not in held.origins:
            raise self._refused("origin", "forbidden", "this key is for certain pages, and the header origin names none of them.")
        if need not in key.scopes and ALL not in key.scopes:
            told = {"www-authenticate": f'{_REALM}, error="insufficient_scope", scope="{need}"'}
            raise self._refused("scope", "forbidden", f"this needs the scope {need}, which the key does not have.", told)
        now = self._now()
        day, ticks = _day(now), self._ticks()
        left = self._left(held, day)
        if held.bucket and (wait_s := held.bucket.wait_s(ticks)):
            detail = f"at most {key.rate} requests a second, of which each replica gives its share; ask more slowly."
            more = {"retry-after": str(math.ceil(wait_s)), **held.limits(left, now)}
            raise self._refused("rate", "rate-limited", detail, more)
        if left == 0:
            detail = f"at most {key.quota} requests a day (UTC); ask tomorrow, or with another key."
            raise self._refused(
                "quota", "quota-exceeded", detail, {"retry-after": str(_to_midnight(now)), **held.limits(left, now)}
            )
        if held.bucket:
            held.bucket.take()
        self._counts.add(key.id, day)
        if left is not None:
            left -= 1
        return Caller(key.id, {**held.limits(left, now), **self._cors(headers.get(b"origin") if key.origins else None)})

    def _left(self, held: _Held, day: int) -> int | None:
        quota = held.key.quota
        return None if quota is None else max(0, quota - self._counts.of(held.key.id, day))

    def _preflight(self, need: str, origin: bytes) -> Caller:
        """Browsers ask without the key whether a page may send it: a page may that some key names, where a key of it allows this."""
        if need not in self._pages.get(origin, ()):
            raise self._refused("preflight", "forbidden", "no key is for pages of this origin; a shop's server asks for its pages.")
        asked = {
            "access-control-allow-methods": "POST",
            "access-control-allow-headers": _SENDABLE,
            "access-control-max-age": str(_PREFLIGHT_S),
        }
        return Caller(None, {**self._cors(origin), **asked}, is_preflight=True)

    def _cors(self, origin: bytes | None) -> dict[str, str]:
        """What lets a page read the answer, problems too: an origin that some key names, and no other."""
        if origin not in self._pages:
            return {}
        told = {"access-control-allow-origin": origin.decode(), "access-control-expose-headers": _READABLE}
        return {**told, "vary": "origin"}

    def _refused(self, reason: str, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> Problem:
        self.metrics.refused.labels(reason).inc()
        return Problem(kind, detail, headers=headers)

    def _hold(self, key: Key) -> _Held:
        bucket = Bucket(key.rate / self._replicas, self._ticks()) if key.rate else None
        return _Held(key, bucket, self._replicas)

    def _follow(self) -> None:
        """In a thread of its own, whatever the other ones wait for."""
        is_away = False
        while True:
            is_last = self._stop.is_set()
            try:
                self.poll()
            except Exception as error:  # whatever the database says, the last known keys hold
                if not is_away:
                    log.get(__name__).warning("keys not read; those that were known hold", error=str(error))
                is_away = True
            else:
                if is_away:
                    log.get(__name__).info("keys are read again")
                is_away = False
            if is_last:
                return
            self._stop.wait(POLL_S)


class _Held:
    """A key and what its limits came to in this replica."""

    def __init__(self, key: Key, bucket: Bucket | None, replicas: int) -> None:
        self.key = key
        self.bucket = bucket
        self.replicas = replicas
        self.ends_at = key.expires_at.timestamp() if key.expires_at else math.inf
        self.origins = frozenset(origin.encode() for origin in key.origins)
        policies = [f'"rate";q={key.rate};w=1'] if key.rate else []
        policies += [f'"day";q={key.quota};w={DAY_S}'] if key.quota else []
        self.policy = ", ".join(policies)

    def limits(self, left: int | None, now: float) -> dict[str, str]:
        """What is left of the limits (draft-ietf-httpapi-ratelimit-headers); of the rate, if the other replicas have as much left."""
        if not self.policy:
            return {}
        told = []
        if self.bucket:
            told.append(f'"rate";r={min(self.key.rate or 0, max(0, int(self.bucket.tokens * self.replicas)))};t=1')
        if left is not None:
            told.append(f'"day";r={left};t={_to_midnight(now)}')
        return {"ratelimit-policy": self.policy, "ratelimit": ", ".join(told)}


def _shown(headers: Headers) -> bytes | None:
    """The key that a request shows; None: it shows none."""
    authorization = headers.get(b"authorization", b"")
    if authorization[:7].lower() == b"bearer ":
        return authorization[7:].strip(b" ")
    return headers.get(b"x-api-key")


def _is_from_here(scope: Mapping[str, Any], headers: Headers) -> bool:
    """Whether this machine asks this machine. By name as well: else a page that gave its own name a loopback address (DNS rebinding), and
    whatever a proxy on this machine lets through from elsewhere, would be of this machine."""
    client = scope.get("client")
    return client is not None and _is_here(client[0]) and _names_here(headers.get(b"host", b"")[:256])


@lru_cache(1024)
def _is_here(host: str) -> bool:
    return is_loopback(host)


@lru_cache(1024)
def _names_here(host: bytes) -> bool:
    named = _HOST.fullmatch(host)
    return named is not None and is_loopback(named[1].decode())


def _day(now: float) -> int:
    return int(now // DAY_S)


def _to_midnight(now: float) -> int:
    return math.ceil(DAY_S - now % DAY_S)
