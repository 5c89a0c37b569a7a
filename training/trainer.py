"""One training loop for every model: `fit` in this process, `train` through Ray Train on 1..n workers.

An epoch is a function of (seed, epoch) alone, so a run that was killed continues from its last checkpoint as if it had never
stopped: rerun the same command.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infra import log
from infra.errors import EngineError, ShopgraphError
from infra.processes import is_open
from infra.settings import Settings, ray_token

Batch = dict[str, Tensor]
OnEpoch = Callable[[int, dict[str, float]], None]

_winding_down: list[threading.Thread] = []
"""Fits whose result is there while Ray Train still takes its run apart."""


class FitConfig(BaseModel):
    """How a network is fitted; part of every recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: PositiveInt = Field(10, description="Passes over the training targets, at most.")
    batch_size: PositiveInt = Field(128, description="Global batch: examples per step over all workers.")
    learning_rate: PositiveFloat = Field(1e-3, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    warmup_steps: NonNegativeInt = Field(0, description="Steps of linear warm-up.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="Learning rate after the warm-up.")
    clip_norm: PositiveFloat | None = Field(None, description="Largest gradient norm.")
    patience: PositiveInt | None = Field(None, description="Stop after this many epochs without a better monitored metric.")
    seed: NonNegativeInt = Field(7, description="Seed of weights, batches and dropout.")
    num_workers: PositiveInt = Field(1, description="Ray Train workers.")


class Task(Protocol):
    """What a model folder hands to the trainer; picklable."""

    mode: Literal["max", "min"]
    """Whether more or less of the monitored metric is better."""

    @property
    def monitor(self) -> str | None:
        """The validation metric that decides which epoch is kept; None: nothing is held back, the last epoch is kept."""
        ...

    def build(self) -> nn.Module:
        """The network, freshly initialised; the caller has seeded torch."""
        ...

    def num_steps(self, epoch: int) -> int:
        """Batches of one epoch."""
        ...

    def batches(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        """This rank's share of each global batch; a function of (seed, epoch) only."""
        ...

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Scalar mean loss of a batch."""
        ...

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Validation metrics, names with prefix `val_`."""
        ...


@dataclass
class FitResult:
    """The kept epoch's weights and what was seen on the way."""

    state: dict[str, Tensor]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    """Best in the monitored metric; the last one where none is monitored."""


def fit(
    task: Task,
    config: FitConfig,
    on_epoch: OnEpoch | None = None,
    *,
    checkpoint: Path | None = None,
    rank: int = 0,
    world_size: int = 1,
    device: str | torch.device = "cpu",
) -> FitResult:
    """Fit in this process.

    Args:
        on_epoch: called by rank 0 with (epoch, metrics) after each epoch; a continued fit tells its past ones first.
        checkpoint: folder for resuming; an unfinished fit found there is continued.

    Raises:
        FloatingPointError: the loss or the monitored metric became NaN or infinite.
    """
    torch.manual_seed(config.seed)
    module = task.build().to(device)
    network: nn.Module = nn.parallel.DistributedDataParallel(module) if world_size > 1 else module
    optimizer = torch.optim.AdamW(_parameter_groups(module, config.weight_decay), lr=config.learning_rate)
    total_steps = sum(task.num_steps(epoch) for epoch in range(config.epochs))
    result = FitResult(state={})
    start = _resume(checkpoint, module, optimizer, result) if checkpoint else 0
    step = sum(task.num_steps(epoch) for epoch in range(start))
    if on_epoch and rank == 0:
        for epoch, metrics in enumerate(result.history):
            on_epoch(epoch, metrics)

    for epoch in range(start, config.epochs):
        if _is_out_of_patience(result, config):
            break
        torch.manual_seed(config.seed * 1_000_003 + epoch * 1_009 + rank)
        network.train()
        losses = torch.zeros(2, dtype=torch.float64, device=device)
        for batch in task.batches(epoch, rank, world_size):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _schedule(step, total_steps, config)
            loss = task.loss(network, {name: tensor.to(device) for name, tensor in batch.items()})
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
            optimizer.step()
            losses += torch.tensor([float(loss.detach()), 1.0], dtype=torch.float64, device=device)
            step += 1
        if world_size > 1:
            torch.distributed.all_reduce(losses)
        mean_loss = float(losses[0] / losses[1].clamp(min=1))
        if not math.isfinite(mean_loss):
            raise FloatingPointError(f"training loss is {mean_loss} in epoch {epoch}; lower learning_rate or set clip_norm.")
        module.eval()
        with torch.inference_mode():
            metrics = {"train_loss": mean_loss, **(task.validate(module) if rank == 0 else {})}
        if rank == 0:
            is_best = _is_best(task, metrics, result.history)
            result.history.append(metrics)
            if is_best:
                result.best_epoch = epoch
                result.state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
            if checkpoint:
                _save(checkpoint, module, optimizer, result)
            if on_epoch:
                on_epoch(epoch, metrics)
        if world_size > 1:
            _share_history(result)
    return result


@dataclass
class Trained:
    """What a training run gives: the fit that chose the number of epochs, and the one whose weights are kept."""

    tuned: FitResult
    final: FitResult


def train(
    task: Task,
    config: FitConfig,
    settings: Settings,
    *,
    title: str,
    checkpoint: Path,
    refit: Task | None = None,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """The same fit through Ray Train's TorchTrainer, on our own Ray or the cluster that the settings name.

    Args:
        title: what the progress bar calls it; where nobody sees a bar, each epoch is a line of the log.
        checkpoint: folder that all workers see; an unfinished fit found there is continued, so it belongs to this fit alone.
        refit: fitted afterwards, for as many epochs as were best for `task`: the same on all rows before the test part.
        on_epoch: called in this process with (epoch, metrics) after each epoch of `task`.

    Raises:
        EngineError: the cluster does not answer or has too few cores, or a worker failed; the message names why.
    """
    checkpoint = checkpoint.resolve()
    tasks = {"tune": task} | ({"refit": refit} if refit else {})
    with ray_session(settings):
        # Imported in the session: Ray reads its way of authentication once, while it is imported
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.util.queue import Queue

        queue = Queue(actor_options={"num_cpus": 0})
        cores = cores_per_worker(
            [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]], config.num_workers
        )
        use_gpu = ray.cluster_resources().get("GPU", 0) >= config.num_workers
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "tasks": {phase: ray.put(one) for phase, one in tasks.items()},
                "config": config.model_dump(),
                "checkpoint": str(checkpoint),
                "queue": queue,
                "use_gpu": use_gpu,
            },
            scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": cores}),
            run_config=RunConfig(
                name=f"{checkpoint.name}-ray", storage_path=str(checkpoint.parent), failure_config=FailureConfig(max_failures=0)
            ),
        )
        outcome: list[BaseException] = []

        def run() -> None:
            try:
                trainer.fit()
            except BaseException as error:  # handed to the caller's thread below
                outcome.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        _winding_down.append(thread)
        with _progress() as progress:
            bars = {"tune": progress.add_task(f"{title}: starting workers", total=config.epochs)}
            # Not until `fit` returns: without a dashboard Ray Train then waits 12 s for a watcher that asks it for actors.
            while thread.is_alive() or not queue.empty():
                if queue.empty():
                    thread.join(0.2)
                    continue
                told = queue.get()
                if told is None:
                    break
                phase, epoch, epochs, metrics = told
                shown = {key: f"{value:.4g}" for key, value in metrics.items() if key in ("train_loss", task.monitor)}
                about = title if phase == "tune" else f"{title}, again on all"
                if phase not in bars:
                    bars[phase] = progress.add_task(about, total=epochs)
                progress.update(bars[phase], completed=epoch + 1, description=", ".join([about, *map(" ".join, shown.items())]))
                if not progress.console.is_terminal:
                    log.get(__name__).info("epoch", fit=about, epoch=epoch, **shown)
                if on_epoch and phase == "tune":
                    on_epoch(epoch, metrics)
        queue.shutdown()
        if outcome:
            raise _explained(outcome[0]) from outcome[0]
    results = [load_result(checkpoint / phase) for phase in tasks]
    return Trained(results[0], results[-1])


def _explained(error: BaseException) -> BaseException:
    """What a person is told of a fit that failed: our own errors as they are, any other as one sentence."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    cause: BaseException = next(iter(failures.values()), error)
    cause = getattr(cause, "_base_exc", cause)  # Ray Train wraps what the worker raised
    if isinstance(cause, ShopgraphError) or not isinstance(cause, Exception):
        return cause
    words = next(iter(str(cause).strip().splitlines()), "")
    named = words if isinstance(cause, FloatingPointError) else f"{type(cause).__name__}: {words}"
    return EngineError(f"a Ray Train worker failed: {named}")


def cores_per_worker(node_cores: Sequence[int], num_workers: int) -> int:
    """The most cores each worker can have so that all fit on the nodes: a worker lies on one node.

    Raises:
        EngineError: fewer cores than workers.
    """
    fitting = [cores for cores in range(1, max(node_cores, default=0) + 1) if sum(n // cores for n in node_cores) >= num_workers]
    if not fitting:
        raise EngineError(
            f"{num_workers} workers need a core each and Ray has {sum(node_cores)}; lower fit.num_workers or add nodes."
        )
    return fitting[-1]


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"), TimeElapsedColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal)  # elsewhere the log tells each epoch


def load_result(checkpoint: Path) -> FitResult:
    """The result that a finished fit left in its checkpoint folder."""
    content = json.loads((checkpoint / "progress.json").read_text())
    state = load_file(checkpoint / content["best"])
    return FitResult(state, content["history"], content["best_epoch"])


def _worker(arguments: dict[str, Any]) -> None:
    """Runs in each Ray Train worker."""
    import ray
    from ray import train as ray_train
    from ray.train import torch as ray_torch

    context = ray_train.get_context()
    device = ray_torch.get_device() if arguments["use_gpu"] else "cpu"
    queue, config = arguments["queue"], FitConfig(**arguments["config"])

    def tell(epoch: int, metrics: dict[str, float]) -> None:
        queue.put((phase, epoch, config.epochs, metrics))

    for phase, task in arguments["tasks"].items():
        result = fit(
            ray.get(task),
            config,
            tell,
            checkpoint=Path(arguments["checkpoint"]) / phase,
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=device,
        )
        config = config.model_copy(update={"epochs": result.best_epoch + 1, "patience": None})
    if context.get_world_rank() == 0:
        queue.put(None)


@contextmanager
def ray_session(settings: Settings) -> Iterator[None]:
    """Join the cluster the settings name, or run a Ray of our own for this command.

    Raises:
        EngineError: the cluster does not answer or wants another token, or our own does not start.
    """
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data")  # Ray warns of its own defaults
    token = settings.ray_auth_token.get_secret_value() if settings.ray_auth_token else None
    with ray_token(token if settings.ray_address else _own_token()):
        import ray

        own = not ray.is_initialized()
        if own:
            _join(settings)
    try:
        yield
    finally:
        if own:
            while _winding_down:
                _winding_down.pop().join(timeout=60)  # a thread that still speaks to Ray while it is shut down ends the process
            ray.shutdown()


@cache
def _own_token() -> str | None:
    """What opens the Ray that only this process uses, whose ports listen beyond loopback.

    None where Ray was imported before: it reads at its import whether there are tokens.
    """
    return None if "ray" in sys.modules else token_hex(32)


def _join(settings: Settings) -> None:
    import ray
    from ray.exceptions import AuthenticationError

    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = settings.ray_address
    host, _, port = (address or "").rpartition(":")
    if port.isdigit() and not is_open(int(port), host):  # Ray itself would try for a minute
        raise EngineError(f"no Ray answers at {address}; start the cluster or correct SHOPGRAPH_RAY_ADDRESS.")
    try:
        if address:
            ray.init(address=address, **common)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=settings.ray_memory_mb * 1_000_000,
                _node_ip_address="127.0.0.1",
                **common,
            )
    except AuthenticationError:
        raise EngineError(
            f"Ray at {address} wants another token; expected the cluster's own in SHOPGRAPH_RAY_AUTH_TOKEN."
        ) from None
    except (ConnectionError, RuntimeError) as error:
        raise EngineError(f"Ray at {address or 'this machine'} cannot be used: {(str(error).splitlines() or [''])[0]}") from error


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices, not biases and norms."""
    decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _schedule(step: int, total_steps: int, config: FitConfig) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then constant or cosine to a tenth."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done)))


def _is_best(task: Task, metrics: dict[str, float], earlier: Sequence[dict[str, float]]) -> bool:
    """Whether an epoch is better than all earlier ones; where nothing is monitored, the newest is.

    Raises:
        FloatingPointError: the monitored metric became NaN or infinite.
    """
    name = task.monitor
    if name is None:
        return True
    if not math.isfinite(metrics[name]):
        raise FloatingPointError(f"{name} is {metrics[name]} in epoch {len(earlier)}; lower learning_rate or set clip_norm.")
    sign = 1.0 if task.mode == "max" else -1.0
    return all(sign * metrics[name] > sign * past[name] for past in earlier)


def _is_out_of_patience(result: FitResult, config: FitConfig) -> bool:
    return config.patience is not None and len(result.history) - 1 - result.best_epoch >= config.patience


def _share_history(result: FitResult) -> None:
    """Give every rank rank 0's history, so that all stop at the same epoch."""
    shared: list[Any] = [(result.history, result.best_epoch)]
    torch.distributed.broadcast_object_list(shared, src=0)
    result.history, result.best_epoch = shared[0]


def _save(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, result: FitResult) -> None:
    """Write weights, optimizer and history; `progress.json` is replaced last, so a crash leaves the previous epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    epoch = len(result.history) - 1
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()},
        folder / f"last-{epoch}.safetensors",
    )
    moments = optimizer.state_dict()["state"]
    save_file(
        {f"{index}.{name}": value.detach().cpu() for index, state in moments.items() for name, value in state.items()},
        folder / f"optimizer-{epoch}.safetensors",
    )
    best = folder / f"best-{result.best_epoch}.safetensors"
    if not best.exists():
        save_file(result.state, best)
    progress = {"history": result.history, "best_epoch": result.best_epoch, "best": best.name, "epoch": epoch}
    draft = folder / "progress.json.draft"
    draft.write_text(json.dumps(progress))
    draft.replace(folder / "progress.json")
    keep = {f"last-{epoch}.safetensors", f"optimizer-{epoch}.safetensors", best.name}
    for old in folder.glob("*.safetensors"):
        if old.name not in keep:
            old.unlink()


def _resume(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, result: FitResult) -> int:
    """Load an unfinished fit into module, optimizer and result; returns the next epoch."""
    if not (folder / "progress.json").exists():
        return 0
    progress = json.loads((folder / "progress.json").read_text())
    epoch = progress["epoch"]
    module.load_state_dict(load_file(folder / f"last-{epoch}.safetensors"))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(folder / f"optimizer-{epoch}.safetensors").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    result.history, result.best_epoch = progress["history"], progress["best_epoch"]
    result.state = load_file(folder / progress["best"])
    return int(epoch) + 1
