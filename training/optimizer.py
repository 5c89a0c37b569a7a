"""AdamW that does not pay for rows nobody asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class AdamW(torch.optim.AdamW):
    """torch's AdamW; of a parameter whose gradient is sparse only the rows that it names move, and their moments (TensorFlow's LazyAdam).

    A step costs what its rows cost, however many the table has; a row that nobody names keeps its moments as they are. State is that of
    torch's, so checkpoints hold both alike.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient."""
        assert closure is None
        sparse = [
            (p, p.grad, group) for group in self.param_groups for p in group["params"] if p.grad is not None and p.grad.is_sparse
        ]
        for parameter, _, _ in sparse:
            parameter.grad = None  # torch's own step passes over it
        super().step()
        for parameter, gradient, group in sparse:
            parameter.grad = gradient
            self._step_rows(parameter, gradient.coalesce(), group)

    def _step_rows(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step, (beta, beta_sq) = float(state["step"]), group["betas"]
        rows, values = gradient.indices()[0], gradient.values()
        mean = state["exp_avg"][rows].lerp_(values, 1 - beta)
        mean_sq = state["exp_avg_sq"][rows].mul_(beta_sq).addcmul_(values, values, value=1 - beta_sq)
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, mean_sq)
        scale = mean_sq.sqrt_().div_((1 - beta_sq**step) ** 0.5).add_(group["eps"])
        moved = parameter[rows].mul_(1 - group["lr"] * group["weight_decay"])
        parameter.index_copy_(0, rows, moved.addcdiv_(mean, scale, value=-group["lr"] / (1 - beta**step)))
