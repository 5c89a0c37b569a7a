"""`shopgraph recommend --all`: the list of every user with a history, scored shard by shard and put to its destination at once.

A shard that is scored is a file under the home, so a run that was killed goes on after it; which shards there are, and what is in each,
follows from the model version, the table versions, k and the instant. The destination changes in one step when all are there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import serving
from features.columns import USER_ID, VISITOR_PREFIX
from features.shop import Shop
from features.store import FeatureStore
from features.tables import FEATURE_TABLES, RECOMMENDATIONS, USER_HISTORY
from infra import clock
from infra.errors import EngineError, TableContractError
from infra.home import Home
from infra.lake import Lake, digest_of
from infra.settings import Settings
from infra.source import code_digest
from serving.compiling import compile_graph, newest
from serving.destinations import destination
from serving.edges import Content
from serving.execution import Graph
from serving.graph import Manifest
from serving.loading import Loader
from serving.nodes.user_history import History, UserHistory
from serving.problems import Problem
from serving.schemas import RecommendRequest
from training import ranker, recommender
from training.tracking import Tracking

TABLE = RECOMMENDATIONS
SHARD = 4096
"""Users that are scored between two files: seconds of work, and some MB."""
_BATCH = 256
"""Users that pass through the graph together."""
_GOES_ON = timedelta(days=1)
"""How long after it began a run on the wall's clock is gone on with; later its instant is too old, and all is scored anew."""
_USERS = ~pc.starts_with(pc.field(USER_ID), VISITOR_PREFIX)


@dataclass(frozen=True)
class Report:
    """What became of a run. `skipped`: the destination held these lists already, and nobody was counted; `found`: of how many users an
    earlier run that did not end had scored the list."""

    address: str
    skipped: bool
    users: int | None
    found: int | None
    as_of: datetime
    model_version: int
    graph_version: str


def recommend_all(
    settings: Settings,
    to: str,
    k: int,
    model: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    shard: int = SHARD,
) -> Report:
    """Let the recommender speak of every user with a history, and put the lists in place of the destination's.

    The lists are those of `POST /v1/recommend {user_id, k}` by what the tables say as of the shop's clock. Acts that were told since the
    tables were built count from the next build on.

    Args:
        to: see `serving.destinations.destination`.
        model: number, alias or run id of a version of `recommender`; None: the newest. Beside it the newest `ranker`, where there is one;
            what it reads of the users comes from the online store, as in every answer.
        say: told what is done.
        progress: called with users scored and users in all.
        shard: users that are scored between two files.

    Raises:
        SettingsError: `to` is no destination.
        pydantic.ValidationError: `k` is outside what the API takes.
        TableContractError: `user_history` was never built, or the destination is somebody else's table.
        ModelNotFoundError: there is no such version.
        EngineError: MLflow, the destination or, for the ranker, the online store cannot be used.
        HomeError: another such run of this shop is going on.
    """
    home = Home(settings).create()
    shop = Shop.load(home, settings.shop)
    lake = Lake.open(settings, shop.name)
    target = destination(to, TABLE, settings, shop)
    RecommendRequest(k=k)
    versions = {t.path: version for t in FEATURE_TABLES.values() if (version := lake.version(t.path)) is not None}
    if USER_HISTORY.path not in versions:
        raise TableContractError(f"table {USER_HISTORY.path} of shop {shop.name} does not exist; run `shopgraph build`.")
    say("fetching the model")
    tracking = Tracking(settings, shop.name)
    models = newest(shop, "recommend", lambda name: tracking.fetch(name, model if name == "recommender" else None))
    manifest = compile_graph(home, shop, "recommend", models)
    pins = {f"{name} version {pin.version}": pin.digest for name, pin in manifest.models.items()}
    made_by: dict[str, Any] = {"model_version": manifest.models["recommender"].version, "graph_version": manifest.version}
    mode = settings.now or shop.now
    key = digest_of(versions, manifest.canonical(), k, shard, repr(TABLE), _code())
    with home.lock(f"recommend-{shop.name}"):
        shards = _Shards.open(home.path / "cache" / "recommend" / shop.name, key, clock.now(mode, lake), mode == "wall")
        as_of, digest = shards.as_of, digest_of(key, shards.as_of)
        users = found = None
        if not target.holds(digest):
            say("loading the model")
            graph, histories = _graph(Loader(settings, shop, lake), manifest, as_of)
            users, found = _score(graph, histories, made_by, k, shards, versions[USER_HISTORY.path], shard, progress)
            say("writing")
            told = {"inputs": versions, "models": pins, "graph": manifest.version, "k": k, "as_of": as_of.isoformat()}
            target.replace(shards.files(), digest, told)
        shards.remove()
    return Report(target.address, users is None, users, found, as_of, **made_by)


def _code() -> str:
    """A digest of all that says what a list holds: the lists of other code are others, and none of them is half done."""
    return code_digest(
        *(file for package in (serving, recommender, ranker) for file in sorted(Path(package.__path__[0]).glob("**/*.py")))
    )


@dataclass(frozen=True)
class _Shards:
    """What is scored, a Parquet file per shard, of the one run of a shop that may be gone on with."""

    folder: Path
    as_of: datetime
    """The instant of all of its lists: when it began."""

    @classmethod
    def open(cls, parent: Path, key: str, now: datetime, is_wall: bool) -> _Shards:
        """The run of a key, gone on with where it began at `now`, or on the wall's clock shortly before; what else is there goes."""
        folder = parent / key
        marker = folder / "as_of"
        if marker.exists():
            began = datetime.fromisoformat(marker.read_text())
            if began == now or (is_wall and timedelta(0) <= now - began < _GOES_ON):
                return cls(folder, began)
        shutil.rmtree(parent, ignore_errors=True)
        folder.mkdir(parents=True)
        draft = folder / "as_of.draft"
        draft.write_text(now.isoformat())
        draft.replace(marker)
        return cls(folder, now)

    def file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"

    def files(self) -> list[Path]:
        """Of all shards that are scored, in their order."""
        return sorted(self.folder.glob("*.parquet"))

    def put(self, number: int, rows: pa.Table) -> None:
        """Keep a scored shard: all of it or none."""
        draft = self.folder / "shard.draft"
        pq.write_table(rows, draft, compression="zstd")
        draft.replace(self.file(number))

    def remove(self) -> None:
        shutil.rmtree(self.folder)


class _Histories(UserHistory):
    """The node `user_history` with what the tables say of the users of one shard, in place of the online store."""

    def __init__(self, store: FeatureStore) -> None:
        super().__init__(store)
        self.of: dict[str, History] = {}

    def take(self, rows: pa.Table) -> list[str]:
        """Know these rows of the view alone; their users, in their order."""
        users: list[str] = rows[USER_ID].to_pylist()
        items, kinds = (rows[name].to_pylist() for name in ("item_ids", "event_types"))
        self.of = {
            user: History(tuple(its_items), tuple(its_kinds))
            for user, its_items, its_kinds in zip(users, items, kinds, strict=True)
        }
        return users

    def run(self, requests: Sequence[RecommendRequest], at: datetime, *_: Sequence[Any]) -> list[History]:  # noqa: ARG002
        return [self.of[request.user_id] for request in requests if request.user_id is not None]


def _graph(loader: Loader, manifest: Manifest, as_of: datetime) -> tuple[Graph, _Histories]:
    """The graph, and what gives it the histories."""
    graph, histories = loader.load(manifest, as_of), _Histories(loader.store)
    for step in graph.steps:
        if isinstance(step.node, UserHistory):
            step.node = histories
    return graph, histories


def _score(
    graph: Graph,
    histories: _Histories,
    made_by: Mapping[str, Any],
    k: int,
    shards: _Shards,
    history: int,
    size: int,
    progress: Callable[[int, int], None],
) -> tuple[int, int]:
    """Score the shards that are not there yet; users in all, and of how many a list was there."""
    as_of = shards.as_of
    total, parts = histories.store.latest_in_parts(USER_HISTORY.name, as_of, history, size, _USERS)
    done = found = 0
    for number, part in enumerate(parts):
        if shards.file(number).exists():
            found += len(part)
        else:
            users = histories.take(part)
            batches = (users[start : start + _BATCH] for start in range(0, len(users), _BATCH))
            lists = [items for batch in batches for items in _answers(graph, batch, k, as_of)]
            shards.put(number, _rows(users, lists, made_by, as_of))
        done += len(part)
        progress(done, total)
    return total, found


def _answers(graph: Graph, users: Sequence[str], k: int, as_of: datetime) -> list[list[Content]]:
    """The list of each user."""
    requests = [
        RecommendRequest.model_construct(user_id=user, k=k) for user in users
    ]  # ids of the tables may be longer than the API's
    answers = [answer for answer in graph.answer(requests, as_of) if not isinstance(answer, Problem)]  # only a forecast is refused
    if missed := {reason for answer in answers for reason in answer["degraded"]} & graph.steps_down:
        raise EngineError(
            f"the online store or a model cannot be used, so the lists would be {', '.join(sorted(missed))}; run `shopgraph features "
            "materialize`, then again."
        )
    return [answer["items"] for answer in answers]


def _rows(users: Sequence[str], lists: Sequence[Sequence[Content]], made_by: Mapping[str, Any], as_of: datetime) -> pa.Table:
    """Rows of the table."""
    flat = [(user, rank, item) for user, items in zip(users, lists, strict=True) for rank, item in enumerate(items, 1)]
    columns = {
        "user_id": [user for user, _, _ in flat],
        "rank": [rank for _, rank, _ in flat],
        **{name: [item[name] for _, _, item in flat] for name in ("item_id", "score", "source")},
        **{name: [value] * len(flat) for name, value in made_by.items()},
        "scored_at": [as_of] * len(flat),
    }
    return pa.table(columns, schema=TABLE.schema)
