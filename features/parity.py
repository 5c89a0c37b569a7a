"""Parity: what is served is what a training frame would hold. Online rows held against the tables they were made from.

Three figures, kept apart. *Wrong*: a row that says something else than the point-in-time value as of its materialisation, among the
rows of the table version that was materialised; it must be 0. *Missing*: a row that should be there and is not. *Stale*: how far, in
event time, the row lies behind what the newest version of the table says now; a build or a materialisation makes it 0.

What was logged when it was read is held in the same way: against the version and instant it was made from, and stale by what the
newest version says of the instant of the read. Both look at rows as they were built; what was told since is put on top of them by
whoever reads, which is held against the table jobs by tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, RETRACTED
from features.offline.frames import latest, read
from features.offline.join import NOTHING, rows_at
from features.online.generations import Generation, readable
from features.online.materialize import worth_keeping
from features.online.packing import Layout, from_microseconds, key_texts, key_values, to_microseconds
from features.online.read_log import Read
from features.online.rows import Row, Rows
from features.views import View
from infra import log
from infra.errors import FeatureError, TableContractError
from infra.lake import Lake

_EXAMPLES = 3


@dataclass(frozen=True)
class Parity:
    """What was found in the online rows of one view.

    Attributes:
        version, as_of: table version and instant that the rows were materialised from.
        keys: how many keys were looked at, those without a row among them.
        newer: rows that are younger than the materialisation, put since by others; not held against anything.
        stale_s: median, 95th percentile and maximum, in seconds, over the keys that show a row.
        examples: of wrong and missing rows, in words.
    """

    view: str
    version: int
    as_of: datetime
    keys: int
    wrong: int
    missing: int
    newer: int
    stale_s: tuple[float, float, float]
    examples: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return self.wrong == 0 and self.missing == 0


def verify(view: View, lake: Lake, rows: Rows, now: datetime, sample: int, seed: int) -> Parity:
    """Hold online rows of a view, of a random sample of its keys, against the table.

    Where readers still get the rows of an earlier definition, the columns that both have are held; the others are null by design.

    Args:
        now: the shop's clock, for staleness.
        sample: how many keys at most.

    Raises:
        FeatureError: the view was never materialised, or materialised anew all the time.
        TableContractError: the table version it was made from is gone.
    """
    generation, source, moment = _materialised(rows, view)
    as_of = from_microseconds(moment)
    bare = replace(view, columns=())
    made = replace(view, columns=generation.layout.columns)
    shared = [name for name, kind in view.columns if (name, kind) in made.columns]
    sampled = _sampled(bare, lake, source, sample, seed)
    expected = _by_key(made, worth_keeping(made, as_of, lake, source), sampled, shared)
    newest = _by_key(bare, latest(bare, now, lake), sampled)
    keys = _texts(view, sampled)
    layout, found = rows.read({view: keys})[view]
    if _materialised(rows, view)[0].id != generation.id:  # what was read may be of either
        return verify(view, lake, rows, now, sample, seed)
    behind = [newest[key][EVENT_TIMESTAMP] if key in newest else None for key in keys]
    return _held(view, source, moment, layout, list(zip(keys, found, behind, strict=True)), expected, shared)


def verify_logged(view: View, lake: Lake, reads: Sequence[Read]) -> list[Parity]:
    """Hold rows of a view that were logged when they were read against the table: one for each materialisation, oldest first.

    Of reads whose table version was vacuumed meanwhile nothing can be said; they are left out, and that is logged.
    """
    made: dict[tuple[int, int, Any], list[Read]] = {}
    for read_ in reads:
        made.setdefault((read_.as_of, read_.source, read_.columns), []).append(read_)
    found = []
    for (moment, source, columns), group in sorted(made.items()):
        of = replace(view, columns=columns)
        shared = [name for name, kind in view.columns if (name, kind) in columns]
        keys = _keys(view, [one.key for one in group])
        try:
            rows = worth_keeping(of, from_microseconds(moment), lake, source)
        except TableContractError as error:
            log.get(__name__).warning("logged reads cannot be held", view=view.name, reads=len(group), why=str(error))
            continue
        expected = _by_key(of, rows, keys.group_by(list(view.key_names)).aggregate([]), shared)
        behind = _events_at(replace(view, columns=()), lake, keys, [one.at for one in group])
        served = [(one.key, one.row, event) for one, event in zip(group, behind, strict=True)]
        found.append(_held(view, source, moment, Layout(columns), served, expected, shared))
    return found


def _held(
    view: View,
    source: int,
    moment: int,
    layout: Layout,
    served: Sequence[tuple[str | None, Row | None, datetime | None]],
    expected: Mapping[str | None, dict[str, Any]],
    shared: Sequence[str],
) -> Parity:
    """What is found in rows that are served.

    Args:
        served: key, its row, and the event time that the newest tables show for it; None: none.
        expected: key -> the columns `shared` and the event time that its row must have.
    """
    wrong = missing = newer = 0
    stale: list[float] = []
    examples: list[str] = []
    for key, row, newest in served:
        if row is not None and max(row[0], row[1]) > moment:
            newer += 1
            continue
        wanted, told = expected.get(key), None
        if row is not None:
            values = layout.unpack([row[2]])
            told = {name: values[name][0] for name in shared}
            told[EVENT_TIMESTAMP] = from_microseconds(row[0])
            if newest is not None:
                stale.append(max((newest - told[EVENT_TIMESTAMP]).total_seconds(), 0.0))
        if told is None and wanted is not None:
            missing += 1
            examples.append(f"{key}: no row, expected {wanted}")
        elif told is not None and (wanted is None or not _equal(told, wanted)):
            wrong += 1
            examples.append(f"{key}: {_difference(told, wanted)}")
    figures = np.percentile(stale, [50, 95, 100]) if stale else np.zeros(3)
    return Parity(
        view.name,
        source,
        from_microseconds(moment),
        len(served),
        wrong,
        missing,
        newer,
        (float(figures[0]), float(figures[1]), float(figures[2])),
        tuple(examples[:_EXAMPLES]),
    )


def _materialised(rows: Rows, view: View) -> tuple[Generation, int, int]:
    """The rows that a reader of the view gets, the table version they were made from, and as of when, in microseconds UTC."""
    generation = readable(rows.generations(), view)
    if generation is None or generation.source is None or generation.as_of is None:
        raise FeatureError(
            f"view {view.name} was not materialised yet, nothing of it is served; run `shopgraph features materialize`."
        )
    return generation, generation.source, generation.as_of


def _sampled(view: View, lake: Lake, version: int, sample: int, seed: int) -> pa.Table:
    """Some keys of a table version, also such as show no row."""
    names = list(view.key_names)
    keys = read(lake, view, version=version).select(names).group_by(names).aggregate([]).drop_null()
    if keys.num_rows > sample:
        keys = keys.take(np.random.default_rng(seed).choice(keys.num_rows, sample, replace=False))
    return keys


def _keys(view: View, texts: Sequence[str]) -> pa.Table:
    """The keys of these texts, row by row."""
    parts = list(zip(*map(orjson.loads, texts), strict=True))
    columns = [
        pa.array(part, pa.string()).cast(view.schema.field(name).type) for name, part in zip(view.key_names, parts, strict=True)
    ]
    return pa.table(columns, names=list(view.key_names))


def _events_at(view: View, lake: Lake, keys: pa.Table, times: Sequence[int]) -> list[datetime | None]:
    """The event time of the row that the newest version of the table shows for each key at its time, as a training frame would."""
    rows = read(lake, view)
    at = pa.chunked_array([pa.array(times, pa.int64()).cast(rows[EVENT_TIMESTAMP].type)])
    own = [rows[name] for name in view.key_names]
    asked = [keys[name] for name in view.key_names]
    found = rows_at(asked, at, own, rows[EVENT_TIMESTAMP], rows[CREATED_TIMESTAMP], view.ttl, rows[RETRACTED])
    return list(rows[EVENT_TIMESTAMP].take(pa.array(found, mask=found == NOTHING)).to_pylist())


def _by_key(view: View, rows: pa.Table, keys: pa.Table, columns: Sequence[str] = ()) -> dict[str | None, dict[str, Any]]:
    """Key text -> these columns and the event time of the rows of these keys."""
    names = list(view.key_names)
    numbered = rows.select(names).append_column("__row", pa.array(np.arange(rows.num_rows)))
    rows = rows.take(numbered.join(keys, names, join_type="inner")["__row"])
    return dict(zip(_texts(view, rows), rows.select([*columns, EVENT_TIMESTAMP]).to_pylist(), strict=True))


def _texts(view: View, rows: pa.Table) -> list[str | None]:
    return key_texts([key_values(rows[name]) for name in view.key_names])


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Value by value, floats to the bit but for the kind of NaN."""
    return all(_same(one[name], other[name]) for name in other)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return (math.isnan(one) and math.isnan(other)) or (one == other and math.copysign(1, one) == math.copysign(1, other))
    if isinstance(one, datetime) and isinstance(other, datetime):
        return to_microseconds(one) == to_microseconds(other)
    return bool(one == other)


def _difference(told: dict[str, Any], wanted: dict[str, Any] | None) -> str:
    if wanted is None:
        return "a row, expected none"
    name = next(name for name in wanted if not _same(told[name], wanted[name]))
    return f"{name} is {told[name]!r}, expected {wanted[name]!r}"
