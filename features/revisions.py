"""Revisions: feature tables only ever gain rows, so what is told anew of a row stands beside what was known before.

A row is known by its keys and its event time. A revision repeats both, with a created time that is not before that of the row it
revises; of equals the one that lies last in the table counts. A row that is taken back is revised too: `retracted` then tells
whether readers see the row before it (whose values the revision repeats, so that the visibility rule needs no exception) or
nothing. The current rows of a table are the newest revision of each, without those taken back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, RETRACTED
from features.offline.join import newest_rows
from features.tables import Table
from infra.lake import MODE, Lake, standing

REVISED = "revised"
"""Where a commit says how many of its rows revise earlier ones."""


def has_revisions(lake: Lake, path: str, version: int | None = None, since: int | None = None) -> bool:
    """Whether a version of a table may hold several revisions of a row, or hold one that is not in the version `since`.

    Args:
        version: default: the newest.
        since: look only at what was committed after it; None: at all that the version is made of.
    """
    for entry in standing(entry for entry in lake.history(path) if version is None or int(entry["version"]) <= version):
        if since is not None and int(entry["version"]) <= since:
            return False
        if entry.get(MODE) == "overwrite":
            # as a whole it replaces; a build makes each row once, but who writes a raw table may not
            return since is not None or (path.startswith("raw/") and entry.get(REVISED) != "0")
        if entry.get(REVISED) != "0":
            return True
    return False


def current_rows(lake: Lake, table: Table, version: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """The current rows of one version of a feature table (default: the newest), in table order.

    Args:
        columns: declared columns, in the order they are given; None: all.

    Raises:
        TableContractError: the table or that version does not exist.
    """
    names = list(columns or table.names)
    if not has_revisions(lake, table.path, version):
        return lake.read(table.path, version, names)
    rows = lake.read(table.path, version, list(dict.fromkeys([*names, *table.keys, EVENT_TIMESTAMP, CREATED_TIMESTAMP, RETRACTED])))
    newest = newest_rows([rows[name] for name in (*table.keys, EVENT_TIMESTAMP)], rows[CREATED_TIMESTAMP])
    stands = newest[pc.is_null(rows[RETRACTED]).to_numpy()[newest]]
    return rows.select(names).take(pa.array(np.sort(stands)))
