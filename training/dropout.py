"""Random choices that are the same whichever worker holds an example."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Share:
    """Which rows of each batch this worker holds: `rank`, `rank + world_size` and so on; alone it holds all."""

    rank: int = 0
    world_size: int = 1
    num_rows: int | None = None
    """Rows of the batch over all workers; None: those that are here are all."""
    generator: torch.Generator | None = None
    """In the same state on every worker; None: torch's own."""


class Drawing(nn.Module):
    """A layer that draws while it trains, for all workers alike; the trainer gives it this worker's share."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.share = Share()


class Chosen(Drawing):
    """Of things that are no rows of the batch, such as the items of a catalogue, the same ones on every worker."""

    def forward(self, num: int, device: torch.device) -> Tensor:
        """(num,) True with chance p."""
        return torch.rand(num, device=device, generator=self.share.generator) < self.p


class Dropout(Drawing):
    """As `nn.Dropout`, bit for bit where one worker holds the batch, for tensors whose first dimension is the rows of the batch.

    Workers that share a batch each draw for all of its rows, as one would, and keep what concerns their own. So the number of
    workers changes nothing but rounding, at the price of drawing more, which is little beside the rest of a step.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(rows, ...) -> (rows, ...), scaled by 1 / (1 - p) where it is kept."""
        if not self.training or not self.p:
            return x
        share = self.share
        num_rows = len(x) if share.num_rows is None else share.num_rows
        kept = x.new_empty(num_rows, *x.shape[1:]).bernoulli_(1 - self.p, generator=share.generator).div_(1 - self.p)
        return x * kept[share.rank :: share.world_size]
