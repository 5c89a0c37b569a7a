"""What is decided on the tuning part: how logits become chances, and how much each task counts in the value."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.ranker.candidates import Floats
from training.ranker.data import Lists
from training.ranker.model import CART, CLICK, PURCHASE, value_of

_PENALTY = 1e-4
_GRID = {CLICK: (1.0,), CART: (0.0, 1.0, 4.0), PURCHASE: (0.0, 1.0, 4.0, 16.0)}


@dataclass(frozen=True)
class Calibration:
    """Per task, a logit is multiplied and then moved (Platt 1999): two numbers, as few purchases carry no finer curve."""

    scale: Floats
    shift: Floats
    """(T,) each."""

    @classmethod
    def fit(cls, logits: Floats, labels: NDArray[np.int64]) -> Calibration:
        """By log loss over candidates, (R, T) each, pulled slightly to leaving logits as they are."""
        x, wanted = torch.from_numpy(logits), torch.from_numpy(labels).double()
        log_scale, shift = (torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True) for _ in range(2))
        optimizer = torch.optim.LBFGS([log_scale, shift], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(x * log_scale.exp() + shift, wanted)
            loss = loss + _PENALTY * (log_scale.square().sum() + shift.square().sum())
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return cls(log_scale.detach().exp().numpy(), shift.detach().numpy())

    def chances(self, logits: Floats) -> Floats:
        """(R, T) -> (R, T)."""
        found: Floats = torch.sigmoid(torch.from_numpy(logits * self.scale + self.shift)).numpy()
        return found


def best_weights(lists: Lists, chances: Floats, tasks: tuple[str, ...]) -> dict[str, float]:
    """Weights of the tasks whose value orders best (mean ndcg_at_10 over these lists); of equal ones the first in the grid wins."""
    if len(tasks) == 1:
        return {tasks[0]: 1.0}
    grid = [dict(zip(tasks, weights, strict=True)) for weights in product(*(_GRID[task] for task in tasks))]
    grid = [weights for weights in grid if any(weights.values())]
    return max(grid, key=lambda weights: float(lists.ndcg(value_of(chances, tasks, weights)).mean()))
