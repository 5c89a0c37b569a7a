"""Names of lists: they say when a list was served, to which part of the people, and by which graph version.

So what people do with a list can be laid at the door of a version in any replica, with nothing to look up.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from dataclasses import dataclass

BUCKETS = 256
"""Parts of the people; those of one part are always in it."""
_DRAWN, _BUCKET, _VERSION = 14, 2, 8
_TIME = 8
LENGTH = _TIME + _DRAWN + _BUCKET + _VERSION
_NAME = re.compile(f"[0-9a-f]{{{LENGTH}}}")


@dataclass(frozen=True)
class Served:
    """What the name of a list says."""

    at: int
    """Unix seconds."""
    bucket: int
    version: str
    """The first digits of the graph version."""


def new() -> str:
    """The part of a name that is drawn, and when: hex digits."""
    return f"{int(time.time()):0{_TIME}x}{secrets.token_hex(_DRAWN // 2)}"


def bucket_of(key: str) -> int:
    """The part of the people to which a key of the assignment belongs; independent of who is drawn for a canary."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=1, person=b"bucket").digest()[0]


def whole(drawn: str, bucket: int, version: str) -> str:
    """The name of a list."""
    return f"{drawn}{bucket:0{_BUCKET}x}{version[:_VERSION]}"


def read(list_id: str) -> Served | None:
    """What a name says; None: it is none of ours."""
    if not _NAME.fullmatch(list_id):
        return None
    return Served(int(list_id[:_TIME], 16), int(list_id[-_VERSION - _BUCKET : -_VERSION], 16), list_id[-_VERSION:])


def is_of(version: str, served: Served) -> bool:
    """Whether a graph version served the list."""
    return version.startswith(served.version)
