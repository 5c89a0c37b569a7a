"""One tracked run: parameters, metrics, plots, tables and the tables it read.

Our own server is started again where it is gone in mid-training. Metrics that another's silent server did not take are kept and
sent again at the end, so that it costs nothing but a wait.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from infra import log
from infra.errors import EngineError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PARAM_CHARS, _TAG_CHARS, _BATCH = 6000, 5000, 100


def description(markdown: str) -> str:
    """What of a card fits the description of a run or a version; a longer one ends with a whole line and says where the rest is."""
    if len(markdown) <= _TAG_CHARS:
        return markdown
    rest = "\n\n*The rest of this card is in the run's artifact `card.md`.*"
    return markdown[: _TAG_CHARS - len(rest)].rsplit("\n", 1)[0] + rest


class Run:
    """A run that is being written; made by `Tracking.run`. `tables`: the versions it reads, path -> version."""

    def __init__(self, connect: Callable[[], MlflowClient], run_id: str, experiment: str, tables: Mapping[str, int]) -> None:
        self._connect = connect
        self.id = run_id
        self.experiment = experiment
        self.tables = tables
        self._waiting: list[Metric] = []
        self._warned = False

    @property
    def client(self) -> MlflowClient:
        """A client of the server; our own is started again where it is gone (raises EngineError if it cannot be)."""
        return self._connect()

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, cut to 6,000 characters; nested mappings become dotted names, so that runs compare field by field."""
        flat = [Param(name, str(value)[:_PARAM_CHARS]) for name, value in _flatten(values)]
        for begin in range(0, len(flat), _BATCH):
            self.client.log_batch(self.id, params=flat[begin : begin + _BATCH])

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run, each cut to 5,000 characters."""
        self.client.log_batch(self.id, tags=[RunTag(name, str(value)[:_TAG_CHARS]) for name, value in values.items()])

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Log one point of the training curve."""
        self.metrics(values, step=epoch)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at a step (an epoch, a horizon); a server that does not answer gets them later."""
        now = int(time.time() * 1000)
        self._waiting += [Metric(name, float(value), now, step or 0) for name, value in values.items()]
        try:
            self._send()
        except (EngineError, MlflowException) as error:
            if not self._warned:
                log.get(__name__).warning("MLflow does not answer; metrics wait for it", error=str(error)[:200])
                self._warned = True

    def figure(self, figure: Figure, name: str) -> None:
        """Keep a plot as `plots/<name>`."""
        self.client.log_figure(self.id, figure, f"plots/{name}")

    def table(self, rows: pa.Table, name: str) -> None:
        """Keep a table as `tables/<name>` (Parquet), such as per-user metrics for later pairing."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            pq.write_table(rows, path, compression="zstd")
            self.client.log_artifact(self.id, str(path), "tables")

    def text(self, content: str, name: str) -> None:
        """Keep a text as the file `name` of the run."""
        self.client.log_text(self.id, content, name)

    def note(self, markdown: str) -> None:
        """The description a reviewer reads on the run's page, kept whole as `card.md`."""
        self.client.set_tag(self.id, "mlflow.note.content", description(markdown))
        self.text(markdown, "card.md")

    def inputs(self, uris: Mapping[str, str]) -> None:
        """Name the table versions the run read; `uris`: path -> address of the table."""
        self.client.log_inputs(
            self.id,
            datasets=[
                DatasetInput(
                    Dataset(path, f"v{version}", "delta_table", json.dumps({"path": uris.get(path, path), "version": version})),
                    [InputTag("mlflow.data.context", "training")],
                )
                for path, version in self.tables.items()
            ],
        )

    def finish(self, status: str) -> None:
        """Send what still waits and close the run.

        Raises:
            EngineError: the server stayed silent for a minute.
        """
        deadline = time.monotonic() + 60
        while True:
            try:
                self._send()
                self.client.set_terminated(self.id, status)
                return
            except (EngineError, MlflowException) as error:
                if time.monotonic() > deadline:
                    raise unanswered(error) from None
                time.sleep(2)

    def _send(self) -> None:
        while self._waiting:
            self.client.log_batch(self.id, metrics=self._waiting[:1000])
            del self._waiting[:1000]


@contextmanager
def answering() -> Iterator[None]:
    """Around calls of MLflow's client: its refusal or silence is an EngineError."""
    try:
        yield
    except MlflowException as error:
        raise unanswered(error) from error


def unanswered(error: Exception) -> EngineError:
    """The error for a user: what MLflow said, and that no work is lost."""
    return EngineError(
        f"MLflow does not answer as it should ({str(error)[:200]}); see `shopgraph status`, then give the same command again: "
        "`shopgraph train` has kept the fitted epochs."
    )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        flat += _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return flat
