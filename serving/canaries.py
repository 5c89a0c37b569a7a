"""Watches the canaries: counts both sides, keeps the counts beside the releases, and withdraws a candidate that is out of its bounds.

Every replica does so. Who comes second with a verdict finds the candidate withdrawn.
"""

from __future__ import annotations

import threading
import uuid

from infra import log
from infra.errors import ReleaseError
from serving.judging import judge
from serving.live import LiveGraphs
from serving.observations import Observations, Tally

JUDGE = "the judge of canaries"
"""Who withdrew a candidate, as the history names it."""
_BEAT_S = 1.0


class Canaries:
    """One replica's part in judging candidates.

    Args:
        live: what answers.
    """

    def __init__(self, live: LiveGraphs) -> None:
        self.live = live
        self.tally = Tally(uuid.uuid4().hex)
        self.observations = Observations(live.releases)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="canaries", daemon=True)

    def start(self) -> None:
        """Begin to watch; to be called once."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; waits for a look under way, at most 10 s."""
        self._stop.set()
        self._thread.join(timeout=10)

    def look(self) -> None:
        """Count for what runs now, and judge it by what all replicas counted.

        Raises:
            EngineError: the release database does not answer.
        """
        phases = self.live.phases
        self.tally.follow(phases)
        self.observations.keep(self.tally)
        for product, phase in phases.items():
            out = [one for one in judge(self.observations.of(product, phase.name), phase) if one.is_out]
            if out:
                why = "; ".join(one.why for one in out)
                try:
                    self.live.releases.withdraw(product, phase.name, JUDGE, why)
                except ReleaseError:
                    continue  # another replica was first, or somebody moved it
                log.get(__name__).warning("candidate withdrawn", product=product, graph_version=phase.candidate, why=why)

    def _watch(self) -> None:
        while not self._stop.wait(_BEAT_S):
            try:
                self.look()
            except Exception as error:  # what was counted is kept with the next look
                log.get(__name__).warning("canaries not judged", error=str(error))
