"""Benchmarks of the demand model on UCI Online Retail against the floors and gradient boosting (scikit-learn); `make bench-demand`.

The recipe `full` is tuned on rolling origins and fitted again as `shopgraph train demand` does, in this process. Gradient boosting
learns from the same days and the same inputs, one model per quantile. Everybody answers the same last 28 days. Times are wall clock
of one process, medians of runs in turns; what takes over a minute is run once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from features.calendars import special_days
from features.columns import DS, ITEM_ID
from infra.settings import set_quiet_environment
from report import Figure, alternate, figure, publish
from retail import daily_demand, lines
from spark_jobs.sources.online_retail import SHOP
from training.demand.backtest import Answer, Backtest, Method
from training.demand.baselines import FLOORS, gradient_boosting
from training.demand.data import DemandTask, network_method
from training.demand.encoder import Encoder
from training.demand.model import Forecaster
from training.demand.panel import Panel
from training.demand.recipes import Recipe, full
from training.demand.train import CALENDAR_DAYS
from training.metrics.forecast import WQL_LEVELS, pooled
from training.splits import rolling_origins
from training.trainer import fit

NUM_SINGLE = 100
PEER = "peer: gradient boosting (scikit-learn)"
Calendar = Mapping[date, str]
"""Name of each special day."""
Context = dict[str, Any]
"""One series as `Forecaster.forecast` takes it: the columns of `daily_demand` as lists, and its item."""


def learn(panel: Panel, calendar: Calendar, recipe: Recipe) -> Forecaster:
    """Epochs are chosen on the rolling origins, then all days before the test part are learned from."""
    origins, test = rolling_origins(panel.num_days, recipe.backtest.horizon, recipe.backtest.num_origins)
    tuning, final = (_task(panel.until(test), calendar, *part, recipe) for part in ((origins[0], origins), (test, ())))
    epochs = fit(tuning, recipe.fit).best_epoch + 1
    network = final.build()
    network.load_state_dict(fit(final, recipe.fit.model_copy(update={"epochs": epochs, "patience": None})).state)
    return Forecaster(recipe.model, final.encoder, network)


def _task(panel: Panel, calendar: Calendar, end: int, origins: tuple[int, ...], recipe: Recipe) -> DemandTask:
    """Learn from the days before `end`; with origins, watch the error of forecasts from each of them."""
    return DemandTask(
        panel=panel,
        encoder=Encoder.fit(recipe.model.encoder, panel.until(end), calendar),
        model=recipe.model,
        windows=recipe.windows,
        backtest=recipe.backtest,
        loss_config=recipe.loss,
        batch_size=recipe.fit.batch_size,
        seed=recipe.fit.seed,
        end=end,
        origins=origins,
    )


def contexts_of(rows: pa.Table, items: list[str], first: date, origin: date) -> list[Context]:
    """The history of some items from `first` to the day before `origin`, as a request brings it."""
    known = pc.and_(pc.greater_equal(rows[DS], first), pc.less(rows[DS], origin))
    rows = rows.filter(pc.and_(known, pc.is_in(rows[ITEM_ID], pa.array(items))))
    series = (rows.filter(pc.equal(rows[ITEM_ID], item)) for item in items)
    return [{**one.drop_columns([ITEM_ID]).to_pydict(), ITEM_ID: item} for item, one in zip(items, series, strict=True)]


def boosted(method: Method, encoder: Encoder, context: Context, horizon: int) -> Answer:
    """What `Forecaster.forecast` answers to one series, asked of gradient boosting."""
    panel = Panel.from_table(pa.table({**context, ITEM_ID: [context[ITEM_ID]] * len(context[DS])}))
    longer, _ = encoder.extend(panel, horizon)
    return method(longer, panel.num_days)


def quality(test: Backtest, ours: Method, peer: Method, days: str) -> list[Figure]:
    """WAPE and WQL on the test part, against the best floor in each and against gradient boosting."""
    methods = {"ours": ours, "peer": peer, **FLOORS}
    scores = {name: pooled(test.score(method(test.panel, test.origin))) for name, method in methods.items()}
    figures = []
    for metric in ("wape", "wql"):
        best = min(FLOORS, key=lambda name: scores[name][metric])
        compare = partial(figure, ours=scores["ours"][metric], better="less")
        figures += [
            compare(f"{metric.upper()}, {days}; peer: the best floor, {best}", peer=scores[best][metric], least_ratio=1.0),
            compare(f"{metric.upper()}, {days}; {PEER}", peer=scores["peer"][metric]),
        ]
    return figures


def bench(rows: pa.Table, recipe: Recipe, say: Callable[[str], None]) -> list[Figure]:
    """Every figure; `rows` are shaped like `daily_demand`."""
    panel = Panel.from_table(rows)
    horizon = recipe.backtest.horizon
    origin = panel.num_days - horizon
    known = panel.until(origin)
    calendar = special_days(SHOP["calendars"], panel.start, panel.day(panel.num_days + CALENDAR_DAYS))
    encoder = Encoder.fit(recipe.model.encoder, known, calendar)

    say("fitting ours and gradient boosting")
    models: dict[str, Any] = {}
    fits = alternate(
        lambda: models.update(ours=learn(panel, calendar, recipe)),
        lambda: models.update(peer=gradient_boosting(known, encoder, seed=recipe.fit.seed)),
    )
    forecaster: Forecaster = models["ours"]
    ours, peer = network_method(forecaster), models["peer"]

    say("scoring the test part")
    test = Backtest.at(panel, origin, encoder, recipe.backtest)
    figures = quality(test, ours, peer, f"last {horizon} days of {test.panel.num_items:,} series")

    say("forecasting all series at once")
    longer, _ = encoder.extend(known, horizon)
    bulk = alternate(lambda: ours(longer, origin), lambda: peer(longer, origin))
    say("forecasting one by one")
    some = [test.panel.item_ids[row] for row in np.linspace(0, test.panel.num_items - 1, NUM_SINGLE, dtype=np.int64)]
    contexts = contexts_of(rows, some, panel.day(max(0, origin - forecaster.history_days)), panel.day(origin))
    single = alternate(
        lambda: [forecaster.forecast([context], horizon=horizon, quantiles=WQL_LEVELS) for context in contexts],
        lambda: [boosted(peer, encoder, context, horizon) for context in contexts],
    )
    size, asked = f"{panel.num_items:,} series", f"{horizon} days x {len(WQL_LEVELS)} quantiles and mean"
    rates = [panel.num_items / seconds for seconds in bulk]
    waits = [seconds / len(contexts) * 1e3 for seconds in single]
    return [
        *figures,
        figure(f"learning {origin} days of {size}, ours with the choice of epochs, s; {PEER}", *fits, better="less"),
        figure(f"all {size}, {asked}, series/s; {PEER}", *rates, better="more"),
        figure(f"one series from its rows, {asked}, ms; {PEER}", *waits, better="less"),
    ]


def main() -> None:
    """Run all, print a table, write build/bench/demand.json."""
    set_quiet_environment()
    with Console(stderr=True).status("reading") as status:
        figures = bench(daily_demand(lines()), full(), status.update)
    publish("demand", figures)


if __name__ == "__main__":
    main()
