"""W3C Trace Context: the cases of the recommendation, and garbage."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.trace import Trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-01", "01"),
        (f"00-{TRACE}-{SPAN}-00", "00"),
        (f"00-{TRACE}-{SPAN}-ff", "01"),  # flags we do not know are not passed on
        (f"01-{TRACE}-{SPAN}-01-what a later version says", "01"),
        (f"cc-{TRACE}-{SPAN}-02", "00"),
    ],
)
def test_a_trace_is_taken_up_with_a_span_of_its_own(header: str, flags: str) -> None:
    trace = Trace.read(header.encode())
    assert trace is not None
    assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-{flags}", trace.header)
    assert trace.span_id != SPAN
    assert trace.context == {"trace_id": TRACE, "span_id": trace.span_id}
    again = Trace.read(header.encode())
    assert again is not None
    assert again.span_id != trace.span_id


@pytest.mark.parametrize(
    "header",
    [
        None, b"", b"00", f"ff-{TRACE}-{SPAN}-01".encode(), f"00-{TRACE}-{SPAN}-01-more".encode(), f"00-{TRACE}-{SPAN}-1".encode(),
        f"00-{'0' * 32}-{SPAN}-01".encode(), f"00-{TRACE}-{'0' * 16}-01".encode(), f"00-{TRACE.upper()}-{SPAN}-01".encode(),
        f"00-{TRACE}-{SPAN}-01 ".encode(), f"00-{TRACE}-{SPAN}-01\n".encode(), f"01-{TRACE}-{SPAN}-01more".encode(),
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01".encode(), b"\0" * 55, b"\xff" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_trace_is_ignored(header: bytes | None) -> None:
    assert Trace.read(header) is None


@given(st.binary(max_size=80) | st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.*", fullmatch=True))
def test_whatever_is_sent_the_answer_is_well_formed(header: bytes) -> None:
    trace = Trace.read(header)
    if trace is not None:
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", trace.header)
        assert trace.trace_id.encode() in header
