"""The graphs that answer now. Threads follow the releases and load what they name, off the event loop.

The last good graph of a product answers until the next one is ready, and for as long as the release database is away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from features.online.packing import from_microseconds
from infra import clock, log
from infra.lake import Lake
from serving.assignment import is_drawn
from serving.execution import Graph
from serving.loading import Loader
from serving.metrics import Metrics
from serving.observations import Phase
from serving.queueing import RequestQueue
from serving.releases import Release, Releases

POLL_S = 0.25
REFRESH_S = 60.0
RETRY_S = 5.0
MOST_RETRY_S = 300.0


class ShopClock:
    """The shop's present instant without reading the lake for every request."""

    def __init__(self, mode: str, lake: Lake) -> None:
        self.mode = mode
        self.lake = lake
        self.instant = clock.now(mode, lake)
        self._posted = datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        """UTC: the machine's time where the clock is `wall`, else the instant of the last `refresh`."""
        return datetime.now(UTC) if self.mode == "wall" else self.instant

    def follow(self, known: int) -> None:
        """Something became known at that instant (microseconds UTC) that no table holds yet (clock `data`)."""
        if self.mode == "data":
            self._posted = max(self._posted, from_microseconds(known) + clock.INSTANT)
            self.instant = max(self.instant, self._posted)

    def refresh(self) -> None:
        """Follow the newest fact (clock `data`)."""
        self.instant = max(self._posted, clock.now(self.mode, self.lake))


@dataclass(frozen=True)
class Served:
    """One loaded graph version with the queue before it. A request takes it once and stays with it to the end."""

    graph: Graph
    queue: RequestQueue
    version: str
    model_versions: dict[str, str]


@dataclass(frozen=True)
class Answering:
    """What answers for one product: the stable version, and for some people the candidate."""

    stable: Served
    candidate: Served | None = None
    weight: float = 0.0
    salt: str = ""
    is_safe: bool = False
    """Whether it answers from the end of the ladder alone."""
    phase: Phase | None = None
    """What is counted of both sides, where the candidate answers some people."""

    def pick(self, key: str) -> Served:
        """The version that answers whoever has this key: the same one as long as the release stands."""
        return self.candidate if self.candidate and is_drawn(self.salt, key, self.weight) else self.stable


class LiveGraphs:
    """Product -> what answers, kept up to date by threads.

    Args:
        releases: which versions answer.
        loader: makes a graph of a manifest.
        shop_clock: what time it is.
        metrics: told of each graph that is loaded.
    """

    def __init__(self, releases: Releases, loader: Loader, shop_clock: ShopClock, metrics: Metrics) -> None:
        self.releases = releases
        self.loader = loader
        self.clock = shop_clock
        self.metrics = metrics
        self.served: dict[str, Answering] = {}
        self.waiting: dict[str, str] = {}
        """Product -> why its stable version does not answer yet."""
        self.held_back: dict[str, str] = {}
        """Product -> why its candidate answers nobody yet, though it has weight."""
        self.has_polled = threading.Event()
        """Set once the releases have been read and each stable version was loaded or could not be."""
        self._released: dict[str, Release] | None = None
        self._held: dict[str, Served] = {}
        self._failed: dict[str, _Failed] = {}
        self._lock = threading.Lock()
        self._is_wanted = threading.Event()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, name="releases", daemon=True),
            threading.Thread(target=self._load_wanted, name="loading", daemon=True),
            threading.Thread(target=self._listen, name="told", daemon=True),
        ]

    def start(self) -> None:
        """Begin to follow the releases and what is told of items; to be called once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Follow no more; waits up to 10 s for a load under way. What is loaded goes on answering."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def poll(self) -> None:
        """Look at the releases once and load all that they name; what cannot be loaded is left for a while.

        Raises:
            EngineError: the release database does not answer.
        """
        self.look()
        while self.load():
            pass

    def look(self) -> None:
        """Follow the releases with what is loaded.

        Raises:
            EngineError: the release database does not answer.
            ReleaseError: a release is not as it was made.
        """
        self._released = self.releases.current()
        self._take_up(self._released)

    def load(self) -> bool:
        """Load the version that is missed most, and take it up; whether there was one to try."""
        if self._released is None:
            return False
        wanted = self._missed(self._released)
        if wanted is None:
            self.has_polled.set()
            return False
        product, version, is_stable = wanted
        if not is_stable:
            self.has_polled.set()
        self._load(product, version)
        self._take_up(self._released)
        return True

    def refresh(self) -> None:
        """Read anew the clock and what the graphs keep in memory."""
        self.clock.refresh()
        for version, served in list(self._held.items()):
            try:
                served.graph.refresh(self.clock.now())
            except Exception as error:  # the last good facts of one graph go on, those of the others are read
                log.get(__name__).warning("facts not read", graph_version=version, error=str(error))

    def tell(self) -> None:
        """Take up what was told of items since the last look.

        Raises:
            EngineError: the spool cannot be read.
        """
        if self.loader.told.poll():
            for served in list(self._held.values()):
                served.graph.tell(self.clock.now())

    @property
    def phases(self) -> dict[str, Phase]:
        """Product -> what is counted of the two sides of its canary."""
        return {product: one.phase for product, one in self.served.items() if one.phase}

    def _missed(self, released: Mapping[str, Release]) -> tuple[str, str, bool] | None:
        """(product, version, whether it is the stable one) of what is to be loaded next: stable ones first, then candidates."""
        places = [
            (place, product, version)
            for product, release in released.items()
            for place, version in enumerate(release.versions)
            if version not in self._held and (version not in self._failed or time.monotonic() >= self._failed[version].again_at)
        ]
        if not places:
            return None
        place, product, version = min(places)
        return product, version, place == 0

    def _take_up(self, released: Mapping[str, Release]) -> None:
        """Let answer what is released and loaded; let go of what is neither released nor answering."""
        with self._lock:
            served: dict[str, Answering] = {}
            waiting: dict[str, str] = {}
            held_back: dict[str, str] = {}
            for product, release in released.items():
                stable, candidate = self._held.get(release.stable), release.candidate
                safe = release.is_safe
                if stable is None:
                    waiting[product] = self._told(release.stable)
                    if product in self.served:  # the last good one answers everybody until then
                        served[product] = Answering(self.served[product].stable, is_safe=safe)
                elif candidate is None or not candidate.weight:
                    served[product] = Answering(stable, is_safe=safe)
                else:
                    held = self._held.get(candidate.version)
                    phase = None if held is None or safe else Phase.of(release.stable, candidate, stable.graph.manifest)
                    served[product] = Answering(stable, held, candidate.weight, candidate.salt, safe, phase)
                    if candidate.version not in self._held:
                        held_back[product] = self._told(candidate.version)
            named = {version for release in released.values() for version in release.versions}
            named |= {one.stable.version for one in served.values()}
            self._held = {version: one for version, one in self._held.items() if version in named}
            self._failed = {version: one for version, one in self._failed.items() if version in named}
            self.served, self.waiting, self.held_back = served, waiting, held_back
        self._is_wanted.set()

    def _told(self, version: str) -> str:
        failed = self._failed.get(version)
        return f"graph {version} cannot be loaded: {failed.why}" if failed else f"graph {version} is loading"

    def _load(self, product: str, version: str) -> None:
        began = time.monotonic()
        try:
            graph = self.loader.load(self.releases.manifest(version), self.clock.now())
        except Exception as error:
            # Whatever is wrong with a new graph, what runs goes on answering; /readyz and the log say why, and it is tried again.
            times = self._failed[version].times + 1 if version in self._failed else 1
            again_s = min(RETRY_S * 2 ** (times - 1), MOST_RETRY_S)
            with self._lock:
                self._failed = {**self._failed, version: _Failed(str(error), times, time.monotonic() + again_s)}
            log.get(__name__).error(
                "graph cannot be loaded", product=product, graph_version=version, error=str(error), again_in_s=again_s
            )
            return

        versions = {name: str(pin.version) for name, pin in graph.manifest.models.items()}
        graph.tell(self.clock.now())  # what was told while it was loaded
        with self._lock:
            self._held = {**self._held, version: Served(graph, RequestQueue(graph, self.clock.now), version, versions)}
            self._failed = {name: one for name, one in self._failed.items() if name != version}
        self.metrics.loaded.labels(product, version).set_to_current_time()
        took = round(time.monotonic() - began, 2)
        log.get(__name__).info("graph loaded", product=product, graph_version=version, seconds=took)

    def _listen(self) -> None:
        """In a thread of its own: neither a graph that is loading nor a database that is away may hold up a withdrawal."""
        while not self._stop.is_set():
            try:
                self.tell()
            except Exception as error:  # it is told again
                log.get(__name__).warning("what is told of items not read", error=str(error))
                self._stop.wait(RETRY_S)
            self._stop.wait(POLL_S)

    def _load_wanted(self) -> None:
        """In a thread of its own: neither a candidate that is loading nor facts that are read may hold up a rollback."""
        refreshed = time.monotonic()
        while not self._stop.is_set():
            if not self.load():
                self._is_wanted.wait(POLL_S)
                self._is_wanted.clear()
            if time.monotonic() - refreshed > REFRESH_S:
                refreshed = time.monotonic()
                self.refresh()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception as error:  # whatever a store says, the last good graphs go on and are followed on
                log.get(__name__).warning("releases not read", error=str(error))
                self._stop.wait(RETRY_S)
            self._stop.wait(POLL_S)


@dataclass(frozen=True)
class _Failed:
    """A version that could not be loaded, how often, and when (monotonic) it is tried again."""

    why: str
    times: int
    again_at: float
