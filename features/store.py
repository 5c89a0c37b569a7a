"""The feature store of a shop: the one door to features, offline and online.

Feast holds the registry and the definitions. The hot paths go past it, with Arrow and NumPy: a training frame is a point-in-time
join by binary search, an online read one look-up of packed rows, and neither imports Feast, which costs seconds and sets variables of
the process. The `feast` command and Feast's own API work on the same registry and the same rows; see `features/repo.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds

from features.columns import EVENT_TIMESTAMP
from features.definitions import Definitions
from features.offline.frames import join, latest, latest_in_parts
from features.online.materialize import materialize
from features.online.packing import from_microseconds, key_texts, to_microseconds
from features.online.read import Columns, read_columns
from features.online.read_log import ReadLog
from features.online.rows import Rows, open_rows
from features.parity import Parity, verify, verify_logged
from features.services import Service
from features.shop import Shop
from features.tables import Type
from features.views import View
from infra import clock
from infra.errors import FeatureError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings

if TYPE_CHECKING:
    import feast


class FeatureStore:
    """Features of one shop. Making the object touches nothing.

    Args:
        definitions: the features to speak of; default: those of the shop.
    """

    def __init__(
        self,
        settings: Settings,
        shop: Shop,
        lake: Lake,
        definitions: Definitions | None = None,
    ) -> None:
        self.settings = settings
        self.shop = shop
        self.lake = lake
        self._definitions = definitions

    # -- definitions --------------------------------------------------------------------------------------------------------

    @property
    def definitions(self) -> Definitions:
        """The features that this store speaks of."""
        return self._definitions or self.shop.definitions

    def apply(self) -> dict[str, list[str]]:
        """Register what is declared; what the registry holds beyond it is deleted, with its online rows.

        Returns:
            `created`, `updated`, `unchanged`, `deleted` -> names such as `view user_history`, sorted.
        """
        from features.registry import apply

        Home(self.settings).create()
        return apply(self.feast, self.definitions, self.settings)

    def changes(self) -> dict[str, list[str]]:
        """What `apply` would do, in its words; all but `unchanged` is empty while the registry says what is declared."""
        from features.registry import changes

        return changes(self.feast, self.definitions)

    def service(self, name: str) -> Service:
        """The declared service.

        Raises:
            FeatureError: there is none of that name.
        """
        return self.definitions.service(name)

    @cached_property
    def feast(self) -> feast.FeatureStore:
        """Feast's own store on the same registry, tables and online rows."""
        from features.registry import open_feast

        return open_feast(self.settings, self.shop.name)

    # -- offline ------------------------------------------------------------------------------------------------------------

    def training_frame(
        self, labels: pa.Table, service: str, with_times: bool = False, views: Collection[str] | None = None
    ) -> pa.Table:
        """`labels` with the service's feature columns appended, each as it was visible at the label's time.

        Args:
            labels: key columns, `event_timestamp` and any extra columns, in any order. Views whose keys are not all there
                are left out.
            with_times: give also `<view>__event_timestamp` and `<view>__created_timestamp`: when the view's row became true and
                when it was known. The frame was held against them either way.

        Returns:
            As many rows as labels, in their order; null where nothing was visible; money as float64.

        Raises:
            FeatureError: the service does not exist, no view has its keys, or a column is of the wrong type or taken.
            TableContractError: a table was never built.
        """
        wanted = self.service(service)
        chosen = [view for view in wanted.views_for(labels.column_names) if views is None or view.name in views]
        return join(labels, chosen, wanted.output_names, self.lake, with_times)

    def latest(self, view: str, as_of: datetime) -> pa.Table:
        """The row each key of a view shows to a reader at `as_of`: keys, columns, event and created time."""
        return latest(self.definitions.view(view), as_of, self.lake)

    def latest_in_parts(
        self, view: str, as_of: datetime, version: int, size: int, among: ds.Expression | None = None
    ) -> tuple[int, Iterator[pa.Table]]:
        """What the online store holds of a table's version as of an instant, `size` rows at a time; see `features.offline.frames`."""
        return latest_in_parts(self.definitions.view(view), as_of, self.lake, version, size, among)

    # -- online -------------------------------------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> Rows:
        """The online store that the settings name."""
        return open_rows(self.settings, self.shop.name)

    def now(self) -> datetime:
        """The shop's clock."""
        return clock.now(self.settings.now or self.shop.now, self.lake)

    def materialize(
        self,
        as_of: datetime | None = None,
        views: Iterable[str] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        back_to: Mapping[str, int] | None = None,
    ) -> dict[str, int]:
        """Make the online store what a reader at `as_of` sees: the new rows of all views replace the old at one instant.

        Reads go on meanwhile and see the old rows; newer rows stay. Killed in the middle, nothing has changed.

        Args:
            as_of: default: the shop's clock.
            views: default: every view that is kept online and whose table was built.
            progress: called with view, rows done, rows in all.
            back_to: where tables were restored to an earlier state, name of each watermark of the online store -> what the tables
                hold of its facts. Newer rows go too, and who keeps a watermark adds what came after it again.

        Returns:
            View -> rows written.

        Raises:
            FeatureError: a named view does not exist or is kept offline only.
            TableContractError: a named view's table was never built.
            HomeError: another process of this home materialises one of them.
        """
        as_of = as_of or self.now()
        as_of = as_of.astimezone(UTC) if as_of.tzinfo else as_of.replace(tzinfo=UTC)
        chosen = self._chosen(views)
        if not chosen:
            return {}
        written = materialize(chosen, as_of, self.lake, self.rows, Home(self.settings).create(), back_to, progress)
        from features.registry import note_materialization

        note_materialization(self.feast, list(written), as_of)
        return written

    def verify(self, views: Iterable[str] | None = None, sample: int = 1_000) -> list[Parity]:
        """Hold what is served against the tables it was made from; see `features.parity`.

        Args:
            views: default: every view that is kept online and whose table was built.
            sample: keys of each view that are looked at, at most; drawn by the settings' seed.

        Raises:
            FeatureError: a view does not exist, is kept offline only, or was never materialised.
        """
        now = self.now()
        return [verify(view, self.lake, self.rows, now, sample, self.settings.seed) for view in self._chosen(views)]

    def verify_logged(self, views: Iterable[str] | None = None) -> list[Parity]:
        """Hold what was served, as far as it was logged, against the tables it was made from; see `features.parity`.

        Args:
            views: as `verify` takes them.

        Returns:
            Of each view one for each materialisation that reads were answered from, oldest first.

        Raises:
            FeatureError: a view does not exist or is kept offline only.
            EngineError: the log cannot be read.
        """
        return [one for view in self._chosen(views) for one in verify_logged(view, self.lake, self._read_log.reads(view))]

    def online_rows(
        self,
        service: str,
        keys: Mapping[str, Sequence[Any]],
        as_of: datetime | None = None,
        views: Collection[str] | None = None,
    ) -> dict[str, list[Any]]:
        """The values a reader sees now, in key order.

        Args:
            keys: key column -> values, all of one length; dates as `date` or ISO text. Views whose keys are not all given are
                left out, so `{"user_id": [...]}` reads only what is kept by user.
            as_of: the present instant, where the caller keeps the shop's clock itself; reading it takes milliseconds where it is
                `data`.
            views: only these; None: all whose keys are given.

        Returns:
            Column -> values, and `<view>__event_timestamp` -> when they became true; None where missing or expired.

        Raises:
            FeatureError: the service or a key column does not exist, a view is kept offline only, or a key does not fit.
        """
        wanted = self.service(service)
        unknown = sorted(set(keys) - set(wanted.keys))
        if unknown:
            raise FeatureError(f"service {service} has no key {', '.join(unknown)}; its keys are {', '.join(wanted.keys)}.")
        if len({len(values) for values in keys.values()}) > 1:
            raise FeatureError("keys must be lists of one length; got " + ", ".join(f"{k}: {len(v)}" for k, v in keys.items()))
        now = to_microseconds(as_of or self.now())
        asked = {
            self._online(view): key_texts([[_key(value, name, kind) for value in keys[name]] for name, kind in view.keys])
            for view in wanted.views_for(keys)
            if views is None or view.name in views
        }
        answer: dict[str, list[Any]] = {}
        for view, (events, values) in self._read(asked, now).items():
            answer |= {wanted.output_names[view.name][name]: column for name, column in values.items()}
            answer[view.time_column] = [None if event is None else from_microseconds(event) for event in events]
        return answer

    # -- inside -------------------------------------------------------------------------------------------------------------

    @cached_property
    def _read_log(self) -> ReadLog:
        return ReadLog(Home(self.settings).online / f"{self.shop.name}.reads.db")

    def _read(self, asked: Mapping[View, Sequence[str | None]], now: int) -> dict[View, Columns]:
        """The rows of the online store; a share of the reads is logged."""
        if not self.settings.read_log or random.random() >= self.settings.read_log:
            return read_columns(self.rows, asked, now)
        with self._read_log.of(self.rows, asked, now) as seen:
            return read_columns(self.rows, asked, now, seen)

    def _chosen(self, views: Iterable[str] | None) -> list[View]:
        """The named views; none named: all that are kept online and whose table was built."""
        if views is None:
            return [v for v in self.definitions.views.values() if v.online and self.lake.version(v.path) is not None]
        return [self._online(self.definitions.view(name)) for name in dict.fromkeys(views)]

    def _online(self, view: View) -> View:
        if not view.online:
            raise FeatureError(f"view {view.name} is kept offline only; read it with a training frame or from the lake.")
        return view


def _key(value: Any, name: str, kind: Type) -> Any:
    """One key part as it is stored: text, or a date, which is stored as ISO text."""
    if value is None or (kind == "string" and isinstance(value, str)):
        return value
    if kind == "date":
        try:
            return (date.fromisoformat(value) if isinstance(value, str) else _plain_date(value)).isoformat()
        except (TypeError, ValueError):
            pass
    raise FeatureError(f"key {name} must be a {kind}, got {value!r}; {EVENT_TIMESTAMP} and other times are no keys.")


def _plain_date(value: Any) -> date:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise TypeError
    return value
