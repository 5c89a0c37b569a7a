"""W3C Trace Context: a request that belongs to a trace says so in `traceparent`, and so does its answer.

https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

_FORMAT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED = 1


@dataclass(frozen=True)
class Trace:
    """Our part of a trace.

    Args:
        trace_id: of the whole, as the caller gave it.
        span_id: of this request, new.
        is_sampled: whether the caller records the trace.
    """

    trace_id: str
    span_id: str
    is_sampled: bool

    @classmethod
    def read(cls, header: bytes | None) -> Trace | None:
        """The trace that a request belongs to; None where it says nothing, or nothing that can be read."""
        found = _FORMAT.fullmatch(header) if header else None
        if found is None:
            return None
        version, trace_id, parent_id, flags, more = found.groups()
        # Later versions may say more behind the flags; ff is none. Zeros are no ids.
        if version == b"ff" or (version == b"00" and more is not None) or not trace_id.strip(b"0") or not parent_id.strip(b"0"):
            return None
        return cls(trace_id.decode(), secrets.token_hex(8), bool(int(flags, 16) & _SAMPLED))

    @property
    def header(self) -> str:
        """`traceparent` of the answer."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"

    @property
    def context(self) -> dict[str, str]:
        """What logs of the request say of it."""
        return {"trace_id": self.trace_id, "span_id": self.span_id}
