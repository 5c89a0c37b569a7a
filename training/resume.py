"""How far a fit is, kept on disk so that it can go on as if it had never stopped: safetensors and JSON, no pickle.

Three files: `state-<step>` holds weights, moments of the optimizer and, in mid-epoch, what each rank had summed up and drawn;
`best-<epoch>` the weights of the best epoch so far; `progress.json` names both and is replaced last, so a kill at any instant
leaves the checkpoint before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_NAME = "progress.json"


@dataclass
class FitResult:
    """The kept epoch's weights and what was seen on the way."""

    state: dict[str, Tensor]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    """Best in the monitored metric; the last one where none is monitored."""

    @classmethod
    def load(cls, folder: Path) -> FitResult:
        """What a fit has left in its checkpoint folder."""
        content = json.loads((folder / _NAME).read_text())
        return cls(load_file(folder / content["best"]) if content["best"] else {}, content["history"], content["best_epoch"])


@dataclass(frozen=True)
class Checkpoint:
    """Where a fit stands."""

    result: FitResult = field(default_factory=lambda: FitResult(state={}))
    step: int = 0
    """Steps done, over all epochs."""
    ranks: tuple[dict[str, Tensor], ...] = ()
    """Per rank, what an epoch that has begun carries from step to step; empty between epochs."""

    def save(self, folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint, then remove what the one before it alone needed."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
        for kind, parts in (("optimizer", optimizer.state_dict()["state"]), ("rank", dict(enumerate(self.ranks)))):
            tensors |= {f"{kind}.{index}.{name}": value for index, part in parts.items() for name, value in part.items()}
        state, best = folder / f"state-{self.step}.safetensors", None
        _write(tensors, state)
        if self.result.history:
            best = folder / f"best-{self.result.best_epoch}.safetensors"
            if not best.exists():
                _write(self.result.state, best)
        content = {
            "history": self.result.history,
            "best_epoch": self.result.best_epoch,
            "best": best.name if best else None,
            "step": self.step,
            "state": state.name,
        }
        draft = folder / f"{_NAME}.draft"
        draft.write_text(json.dumps(content))
        draft.replace(folder / _NAME)
        for old in folder.glob("*.safetensors*"):
            if old not in (state, best):
                old.unlink()

    @classmethod
    def load(cls, folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
        """Where the fit in `folder` stands, its weights and moments loaded into module and optimizer; at its begin where there is none."""
        if not (folder / _NAME).exists():
            return cls()
        content = json.loads((folder / _NAME).read_text())
        weights: dict[str, Tensor] = {}
        parts: dict[str, dict[int, dict[str, Tensor]]] = {"optimizer": {}, "rank": {}}
        for key, value in load_file(folder / content["state"]).items():
            kind, name = key.split(".", 1)
            if kind == "module":
                weights[name] = value
            else:
                index, name = name.split(".", 1)
                parts[kind].setdefault(int(index), {})[name] = value
        module.load_state_dict(weights)
        optimizer.load_state_dict({"state": parts["optimizer"], "param_groups": optimizer.state_dict()["param_groups"]})
        return cls(FitResult.load(folder), content["step"], tuple(part for _, part in sorted(parts["rank"].items())))


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    draft = path.with_name(f"{path.name}.draft")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, draft)
    draft.replace(path)
