"""Who is answered by the candidate: drawn by a hash of the person, so that everybody stays on one side while the weight stands.

A key's draw does not depend on the weight: when it grows, keys only ever come over to the candidate.
"""

from __future__ import annotations

import hashlib

_DRAWS = 1 << 64


def share(salt: str, key: str) -> float:
    """Where a key stands between 0 and 1, uniform over keys and independent between salts.

    Args:
        salt: of the experiment, so that the same people are not drawn for each one.
        key: whatever an assignment sticks to: a user, else a visitor, a session or a request.
    """
    told = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(told) / _DRAWS


def is_drawn(salt: str, key: str, percent: float) -> bool:
    """Whether a key is among so many percent of all keys."""
    return share(salt, key) * 100 < percent
