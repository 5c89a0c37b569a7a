"""The door to Optuna: a search is a list of trials in an SQLite file, so one that was killed goes on where it was.

What is tried next is a function of (seed, trials so far): the sampler (TPE, Bergstra et al. 2011) begins anew with each trial.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from training.space import Range, Space, Value, text

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Tried:
    """A trial that has ended. `value` is its best epoch's, None where it diverged before one."""

    number: int
    changes: tuple[str, ...]
    value: float | None
    epochs: int
    is_pruned: bool


class Trial:
    """One set of values, being tried."""

    def __init__(self, trial: optuna.Trial, space: Space, is_max: bool) -> None:
        self._trial = trial
        self._best = max if is_max else min
        self.number: int = trial.number
        values = {field: _suggested(trial, field, choice) for field, choice in space.items()}
        self.changes = tuple(f"{field}={text(value)}" for field, value in values.items())
        """As `--set` takes them."""
        trial.set_user_attr("changes", self.changes)

    def is_hopeless(self, epoch: int, value: float) -> bool:
        """Report an epoch; whether the trial so far is worse than the median of the earlier ones up to that epoch."""
        if epoch not in self._values:  # a continued fit tells its past epochs again
            self._trial.report(value, epoch)
        return bool(self._trial.should_prune())

    def finish(self) -> None:
        """It went to its end; its value is that of its best epoch."""
        self._trial.study.tell(self._trial, self._best(self._values.values()))

    def prune(self) -> None:
        """It was stopped, or diverged, or its values do not go together."""
        self._trial.study.tell(self._trial, state=TrialState.PRUNED)

    @property
    def _values(self) -> Mapping[int, float]:
        every = self._trial.study.get_trials(deepcopy=False)
        values: Mapping[int, float] = next(trial for trial in every if trial.number == self.number).intermediate_values
        return values


class Search:
    """The trials of one search.

    Args:
        file: SQLite file; made if it is missing. Several searches may share it.
        name: what the values depend on; trials found under it are taken up.
        mode: whether more or less of the value is better.
        first: the recipe's own values; where the space holds them they are the first trial, so the best is never worse.
    """

    def __init__(
        self, file: Path, name: str, space: Space, mode: Literal["max", "min"], seed: int, first: Mapping[str, Value]
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.seed, self.is_max = space, seed, mode == "max"
        # An epoch's worth of patience, and some trials to take the median of
        pruner = MedianPruner(n_startup_trials=4, n_warmup_steps=1)
        self._study = optuna.create_study(
            storage=RDBStorage(f"sqlite:///{file}"),
            study_name=name,
            direction="maximize" if self.is_max else "minimize",
            pruner=pruner,
            load_if_exists=True,
        )
        if not self._study.trials:
            self._study.enqueue_trial({field: value for field, value in first.items() if _holds(space[field], value)})

    def trials(self, total: int) -> Iterator[Trial]:
        """Trials until `total` have ended: first the one that a kill left unfinished, then new ones."""
        while True:
            every = self._study.get_trials(deepcopy=False)
            left = [trial for trial in every if trial.state == TrialState.RUNNING]
            if not left and sum(trial.state in _ENDED for trial in every) >= total:
                return
            number = left[0].number if left else sum(trial.state != TrialState.WAITING for trial in every)
            self._study.sampler = TPESampler(seed=self.seed * 1_000_003 + number, n_startup_trials=5)
            asked = optuna.Trial(self._study, left[0]._trial_id) if left else self._study.ask()
            yield Trial(asked, self.space, self.is_max)

    @property
    def tried(self) -> Sequence[Tried]:
        """The trials that have ended, in their order."""
        return [self._told(trial) for trial in self._study.get_trials(deepcopy=False) if trial.state in _ENDED]

    @property
    def best(self) -> Tried | None:
        """The best of those that went to their end, the earliest of equal ones; None: none did."""
        ended = [tried for tried in self.tried if not tried.is_pruned and tried.value is not None]
        sign = 1 if self.is_max else -1
        return max(ended, key=lambda tried: (sign * (tried.value or 0.0), -tried.number), default=None)

    def _told(self, trial: FrozenTrial) -> Tried:
        values = trial.intermediate_values
        value = (max if self.is_max else min)(values.values(), default=None)
        return Tried(trial.number, tuple(trial.user_attrs["changes"]), value, len(values), trial.state == TrialState.PRUNED)


def _suggested(trial: optuna.Trial, field: str, values: Range | tuple[Value, ...]) -> Any:
    if not isinstance(values, Range):
        return trial.suggest_categorical(field, values)
    if values.is_whole:
        return trial.suggest_int(field, int(values.low), int(values.high), log=values.log)
    return trial.suggest_float(field, values.low, values.high, log=values.log)


def _holds(values: Range | tuple[Value, ...], value: Value) -> bool:
    if isinstance(values, Range):
        return isinstance(value, int | float) and values.low <= value <= values.high
    return value in values
