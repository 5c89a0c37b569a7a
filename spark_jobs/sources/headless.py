"""Text files without a header line that are known all the same: by their name or by their first lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spark_jobs.sources import sasrec

_MOVIELENS = {
    "ratings": ["userId", "movieId", "rating", "timestamp"],
    "movies": ["movieId", "title", "genres"],
    "users": ["userId", "gender", "age", "occupation", "zip"],
}
"""Columns of MovieLens' older editions (`ratings.dat`), named as in the header lines of the newer ones."""


def headless(path: Path, head: Sequence[str]) -> dict[str, Any]:
    """The text options that such a file reads with; empty for any other.

    Args:
        head: its first lines.
    """
    if head and all(re.fullmatch(r"\d+ \d+", line) for line in head):
        return sasrec.READS
    names = _MOVIELENS.get(path.name.split(".")[0])
    if names and head and head[0].count("::") == len(names) - 1:
        return {"delimiter": "::", "quote": "", "header": names}
    return {}
