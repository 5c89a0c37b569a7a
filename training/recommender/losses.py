"""Softmax losses over a catalogue, some rows of scores at a time; their gradients are computed with them.

Shapes: D width, I items, R scored positions, P (position, target) pairs, N negatives, S items of a history.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class _Blocks:
    """Scores of some rows at a time, and the gradients that come back through them; arguments as of `CatalogueSoftmax`."""

    def __init__(self, states: Tensor, weight: Tensor, bias: Tensor, seen: Tensor, bonus: Tensor, pair_rows: Tensor) -> None:
        self.inputs = states, weight, bias, seen, bonus
        self.pair_rows = pair_rows
        self.gradients = [torch.empty_like(states), torch.zeros_like(weight), torch.zeros_like(bias), torch.empty_like(bonus)]
        """Of states, weight, bias and bonus."""

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """Rows, pairs that belong to them, the row of each pair within them, and the scores of the rows."""
        states, weight, bias, seen, bonus = self.inputs
        step = max(1, 2**20 // len(weight))
        starts = torch.arange(0, len(states), step, device=states.device)
        edges = [*torch.searchsorted(self.pair_rows, starts).tolist(), len(self.pair_rows)]
        for index, start in enumerate(starts.tolist()):
            block, part = slice(start, start + step), slice(edges[index], edges[index + 1])
            scores = torch.addmm(bias, states[block], weight.T).scatter_add_(1, seen[block], bonus[block])
            yield block, part, self.pair_rows[part] - start, scores

    def back(self, block: slice, scores: Tensor) -> None:
        """Take up the gradient of the scores of some rows."""
        states, weight, _, seen, _ = self.inputs
        torch.mm(scores, weight, out=self.gradients[0][block])
        self.gradients[1].addmm_(scores.T, states[block])
        self.gradients[2] += scores.sum(dim=0)
        torch.gather(scores, 1, seen[block], out=self.gradients[3][block])


class CatalogueSoftmax(torch.autograd.Function):
    """Softmax loss over all items, with its gradient, a few rows at a time: the (R, I) scores never exist as a whole.

    Each block of scores stays in the processor's cache and becomes its own gradient in place, which is several times faster
    than letting autograd keep the scores (the idea of the fused linear cross-entropy of Hsu et al. 2024, Liger kernels).
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor,
        seen: Tensor,
        bonus: Tensor,
        pair_rows: Tensor,
        pair_targets: Tensor,
        pair_weights: Tensor,
    ) -> Tensor:
        """As `Network.forward`; `seen` (R, S) are items whose score gets `bonus` (R, S); `pair_rows` ascend."""
        loss, blocks = states.new_zeros(()), _Blocks(states, weight, bias, seen, bonus, pair_rows)
        for block, part, rows, scores in blocks:
            targets, weights = pair_targets[part], pair_weights[part]
            log_sums = torch.logsumexp(scores, dim=1)
            loss += ((log_sums[rows] - scores[rows, targets]) * weights).sum()
            row_weights = torch.zeros_like(log_sums).index_add_(0, rows, weights)
            scores.sub_(log_sums[:, None]).exp_().mul_(row_weights[:, None])
            scores.index_put_((rows, targets), -weights, accumulate=True)
            blocks.back(block, scores)
        ctx.save_for_backward(*blocks.gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that `forward` left, times that of the loss; None for what is not learned."""
        states, weight, bias, bonus = (gradient * grad_outputs[0] for gradient in ctx.saved_tensors)
        return states, weight, bias, None, bonus, None, None, None


class SampledSoftmax(torch.autograd.Function):
    """Softmax loss over the wanted item and drawn ones, with its gradient, a few rows at a time, as `CatalogueSoftmax` has it."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor,
        seen: Tensor,
        bonus: Tensor,
        pair_rows: Tensor,
        pair_places: Tensor,
        wanted: Tensor,
        pair_weights: Tensor,
    ) -> Tensor:
        """Scores of the drawn items follow from `states` (R, D), `weight` (N, D) and `bias` (N,).

        Args:
            seen: (R, S) places among the drawn items whose score gets `bonus` (R, S).
            pair_rows: (P,) ascending.
            pair_places: (P,) place of the wanted item among the drawn ones, which is left out of them; N: it is not there.
            wanted: (P,) score of the wanted item.
        """
        loss, blocks = states.new_zeros(()), _Blocks(states, weight, bias, seen, bonus, pair_rows)
        gradient_wanted = torch.empty_like(wanted)
        for block, part, rows, scores in blocks:
            weights = pair_weights[part]
            others = scores[rows]
            drawn = torch.nonzero(pair_places[part] < len(weight)).flatten()
            others[drawn, pair_places[part][drawn]] = -torch.inf
            log_sums = torch.logaddexp(torch.logsumexp(others, dim=1), wanted[part])
            loss += ((log_sums - wanted[part]) * weights).sum()
            gradient_wanted[part] = ((wanted[part] - log_sums).exp() - 1) * weights
            others.sub_(log_sums[:, None]).exp_().mul_(weights[:, None])
            scores.zero_().index_add_(0, rows, others)
            blocks.back(block, scores)
        ctx.save_for_backward(*blocks.gradients, gradient_wanted)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that `forward` left, times that of the loss; None for what is not learned."""
        states, weight, bias, bonus, wanted = (gradient * grad_outputs[0] for gradient in ctx.saved_tensors)
        return states, weight, bias, None, bonus, None, None, wanted, None
