"""The planted next-item process: which item a visitor views after the last one.

    P(next = j | last = i, user u, day t)  proportional to  on_sale(j, t) * [j != i] * (
        0.45 * successor(j | i)  +  0.40 * sum_c taste(u, c) * popularity(j) * [cluster(j) = c] / popularity(cluster c)
        +  0.15 * popularity(j) )

without the successor part where there is no last item. The chain runs through a user's whole life: the first view of a visit
follows the last view of the visit before. It is drawn by rejection: a candidate that is not on sale or repeats the last item
is drawn anew from the whole mixture, which is the formula above exactly.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from spark_jobs.sample.catalogue import SUCCESSOR_WEIGHTS, Catalogue
from spark_jobs.sample.chance import Floats, Ints

SUCCESSOR_SHARE = 0.45
TASTE_SHARE = 0.40
POPULARITY_SHARE = 0.15

_SUCCESSOR_TOTAL = np.cumsum(SUCCESSOR_WEIGHTS)


def parts() -> pa.Table:
    """Shares of the three parts."""
    shares = {"successor": SUCCESSOR_SHARE, "taste": TASTE_SHARE, "popularity": POPULARITY_SHARE}
    return pa.table({"part": list(shares), "share": list(shares.values())})


def draw_next(catalogue: Catalogue, users: Ints, number: int, last: Ints, days: Ints, tastes: Ints, weights: Floats) -> Ints:
    """The item each user views as their view number `number`.

    Args:
        users: (n) ids, counters of the draw.
        last: (n) item viewed before, -1 for none.
        days: (n) local day of the view.
        tastes: (n, tastes) clusters; `weights`: (n, tastes) their running sums, ending in 1.
    """
    found = np.full(len(users), -1, dtype=np.int64)
    pending = np.arange(len(users))
    attempt = 0
    while len(pending):
        user, before, day = users[pending], last[pending], days[pending]
        part = catalogue.chance.uniform("next part", user, number, attempt)
        draw = catalogue.chance.uniform("next item", user, number, attempt)
        rank = np.minimum(np.searchsorted(_SUCCESSOR_TOTAL, draw), len(SUCCESSOR_WEIGHTS) - 1)
        follows = np.where(before >= 0, catalogue.successors[before, rank], -1)

        within = np.clip((part - SUCCESSOR_SHARE) / TASTE_SHARE, 0, 1 - 1e-12)
        taste = (within[:, None] >= weights[pending]).sum(axis=1)
        cluster = tastes[pending, np.minimum(taste, tastes.shape[1] - 1)]
        by_taste = part < SUCCESSOR_SHARE + TASTE_SHARE
        low = np.where(by_taste, catalogue.mass[catalogue.cluster_start[cluster]], 0.0)
        high = np.where(by_taste, catalogue.mass[catalogue.cluster_start[cluster + 1]], catalogue.mass[-1])
        candidate = np.where(part < SUCCESSOR_SHARE, follows, catalogue.pick(low, high, draw))

        on_sale = (catalogue.first_day[candidate] <= day) & (day < catalogue.last_day[candidate])
        good = (candidate >= 0) & (candidate != before) & on_sale
        found[pending[good]] = candidate[good]
        pending = pending[~good]
        attempt += 1
    return found
