"""One training loop for every model: `fit` in this process, `train` through Ray Train on 1..n workers.

Batches are a function of (seed, epoch) alone, and a checkpoint in mid-epoch keeps what else goes from step to step, so a run that
was killed continues as if it had never stopped: rerun the same command.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from infra import log
from infra.errors import DivergedError, EngineError, SettingsError, ShopgraphError
from infra.processes import is_open
from infra.settings import Settings, ray_token
from training.dropout import Drawing, Share
from training.optimizer import AdamW
from training.resume import Checkpoint, FitResult

Batch = dict[str, Tensor]
OnEpoch = Callable[[int, dict[str, float]], bool | None]
"""Called with (epoch, metrics) after an epoch; True: stop there."""

_winding_down: list[threading.Thread] = []
"""Fits whose result is there while Ray Train still takes its run apart."""


_STOP = "stop"
"""A file in the checkpoint's folder, which all workers see: the fit is to end after its epoch."""


class FitConfig(BaseModel):
    """How a network is fitted; part of every recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: PositiveInt = Field(10, description="Passes over the training targets, at most.")
    batch_size: PositiveInt = Field(128, description="Global batch: examples per step over all workers.")
    learning_rate: PositiveFloat = Field(1e-3, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    warmup_steps: NonNegativeInt = Field(0, description="Steps of linear warm-up.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="Learning rate after the warm-up.")
    clip_norm: PositiveFloat | None = Field(None, description="Largest gradient norm.")
    patience: PositiveInt | None = Field(None, description="Stop after this many epochs without a better monitored metric.")
    seed: NonNegativeInt = Field(7, lt=2**32, description="Seed of weights, batches and dropout.")
    num_workers: PositiveInt = Field(1, description="Ray Train workers.")
    checkpoint_s: NonNegativeFloat = Field(
        60.0, description="Seconds between checkpoints inside an epoch, at least; each epoch ends with one as well."
    )
    mixed_precision: bool = Field(
        False, description="Multiply in bfloat16, keep weights and sums in float32: faster where the processor knows bfloat16."
    )
    compile: bool = Field(False, description="Let torch compile the network: minutes at first, then faster steps on a GPU.")


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
        """This rank's rows (`rank`, `rank + world_size` ...) of each global batch; a function of (seed, epoch) only.

        With several ranks a batch also says `num_rows`, how many rows the global batch has, and its rows are as wide as there.
        """
        ...

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss of a batch; the mean of all ranks' losses is the mean loss over the global batch, however it was parted."""
        ...

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Validation metrics, names with prefix `val_`."""
        ...


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
        SettingsError: bfloat16 was asked for and the device does not know it.
    """
    device = torch.device(device)
    _check_precision(config, device)
    torch.manual_seed(config.seed)
    module = task.build().to(device)
    if device.type == "cuda" or config.compile:
        _make_dense(module)
    share = _shared(module, rank, world_size, device)
    network: nn.Module = nn.parallel.DistributedDataParallel(module) if world_size > 1 else module
    if config.compile:
        network = torch.compile(network, dynamic=True)  # type: ignore[assignment]  # batches differ in width
    optimizer = AdamW(_parameter_groups(module, config.weight_decay), lr=config.learning_rate)
    begins = [0]  # the step that each epoch begins with, and the end
    for epoch in range(config.epochs):
        begins.append(begins[-1] + task.num_steps(epoch))
    found = Checkpoint.load(checkpoint, module, optimizer) if checkpoint else Checkpoint()
    result, step, carried = found.result, found.step, found.ranks
    is_stopped = False
    if on_epoch and rank == 0:
        for epoch, metrics in enumerate(result.history):
            is_stopped = bool(on_epoch(epoch, metrics)) or is_stopped
    is_stopped = _agreed(is_stopped, world_size, device)
    saved_at = time.monotonic()

    for epoch in range(len(result.history), config.epochs):
        if is_stopped or _is_out_of_patience(result, config):
            break
        _seed(config.seed * 1_000_003 + epoch * 1_009, share)
        losses = torch.zeros(2, dtype=torch.float64)
        if carried:
            losses = carried[rank]["losses"]
            _restore_random_state(carried[rank], share, device)
            carried = ()
        network.train()
        for batch in islice(task.batches(epoch, rank, world_size), step - begins[epoch], None):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _schedule(step, begins[-1], config)
            if "num_rows" in batch:
                share.num_rows = int(batch["num_rows"])
            with torch.autocast(device.type, torch.bfloat16, enabled=config.mixed_precision):
                loss = task.loss(network, {name: tensor.to(device) for name, tensor in batch.items()})
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if config.clip_norm is not None:
                _clip(module, config.clip_norm)
            optimizer.step()
            losses += torch.tensor([float(loss.detach()), 1.0], dtype=torch.float64)
            step += 1
            is_due = checkpoint is not None and step < begins[epoch + 1] and time.monotonic() - saved_at >= config.checkpoint_s
            if _agreed(is_due, world_size, device):
                ranks = _gathered({"losses": losses, **_random_state(share, device)}, world_size)
                if checkpoint and rank == 0:
                    Checkpoint(result, step, ranks).save(checkpoint, module, optimizer)
                saved_at = time.monotonic()
        losses = torch.stack([carried["losses"] for carried in _gathered({"losses": losses}, world_size)]).sum(dim=0)
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
                Checkpoint(result, step).save(checkpoint, module, optimizer)
            if on_epoch:
                is_stopped = bool(on_epoch(epoch, metrics))
        if world_size > 1:
            _share_history(result)
        is_stopped = _agreed(is_stopped, world_size, device)
        saved_at = time.monotonic()
    return result


@dataclass(frozen=True)
class Tuning:
    """What a model's recipe is tuned by: the task of the training part, judged on the validation part."""

    task: Task
    inputs: dict[str, int]
    """Table versions it is made of: path -> version."""
    tags: dict[str, str]
    parts: tuple[Any, ...]
    """All that the fit depends on beside the recipe, as JSON can hold it."""


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
        on_epoch: called in this process with (epoch, metrics) after each epoch of `task`; True: stop, perhaps an epoch later.

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
                if on_epoch and phase == "tune" and on_epoch(epoch, metrics):
                    checkpoint.mkdir(parents=True, exist_ok=True)
                    (checkpoint / _STOP).touch()
        queue.shutdown()
        if outcome:
            raise _explained(outcome[0]) from outcome[0]
    results = [FitResult.load(checkpoint / phase) for phase in tasks]
    return Trained(results[0], results[-1])


def _explained(error: BaseException) -> BaseException:
    """What a person is told of a fit that failed: our own errors as they are, any other as one sentence."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    cause: BaseException = next(iter(failures.values()), error)
    cause = getattr(cause, "_base_exc", cause)  # Ray Train wraps what the worker raised
    if isinstance(cause, ShopgraphError) or not isinstance(cause, Exception):
        return cause
    words = next(iter(str(cause).strip().splitlines()), "")
    if isinstance(cause, FloatingPointError):
        return DivergedError(f"a Ray Train worker failed: {words}")
    return EngineError(f"a Ray Train worker failed: {type(cause).__name__}: {words}")


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


def _worker(arguments: dict[str, Any]) -> None:
    """Runs in each Ray Train worker."""
    import ray
    from ray import train as ray_train
    from ray.train import torch as ray_torch

    context = ray_train.get_context()
    device = ray_torch.get_device() if arguments["use_gpu"] else "cpu"
    queue, config = arguments["queue"], FitConfig(**arguments["config"])

    def tell(epoch: int, metrics: dict[str, float]) -> bool:
        queue.put((phase, epoch, config.epochs, metrics))
        return (Path(arguments["checkpoint"]) / _STOP).exists()

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


def _make_dense(module: nn.Module) -> None:
    """Let tables have dense gradients: a GPU moves whole tables in no time, and neither NCCL nor the compiler takes sparse ones."""
    for layer in module.modules():
        if isinstance(layer, nn.Embedding):
            layer.sparse = False


def _clip(module: nn.Module, most: float) -> None:
    """As `nn.utils.clip_grad_norm_`, with sparse gradients among the others."""
    for parameter in module.parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    values = [gradient.values() if gradient.is_sparse else gradient for gradient in gradients]
    scale = (most / (nn.utils.get_total_norm(values) + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(scale)


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


def _check_precision(config: FitConfig, device: torch.device) -> None:
    if config.mixed_precision and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise SettingsError(
            f"fit.mixed_precision needs a GPU that knows bfloat16, and {torch.cuda.get_device_name(device)} does not; set it to false."
        )


def _shared(module: nn.Module, rank: int, world_size: int, device: torch.device) -> Share:
    """Tell every layer that draws which rows of a batch this worker holds."""
    share = Share(rank, world_size, generator=torch.Generator(device) if world_size > 1 else None)
    for layer in module.modules():
        if isinstance(layer, Drawing):
            layer.share = share
    return share


def _seed(seed: int, share: Share) -> None:
    """Begin an epoch's random numbers: those that all ranks draw alike, and each rank's own."""
    torch.manual_seed(seed + share.rank)
    if share.generator is not None:
        share.generator.manual_seed(seed)


def _random_state(share: Share, device: torch.device) -> dict[str, Tensor]:
    """State of all that this rank draws from."""
    state = {"random": torch.get_rng_state()}
    if device.type == "cuda":
        state["random_device"] = torch.cuda.get_rng_state(device)
    if share.generator is not None:
        state["random_shared"] = share.generator.get_state()
    return state


def _restore_random_state(state: dict[str, Tensor], share: Share, device: torch.device) -> None:
    torch.set_rng_state(state["random"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["random_device"], device)
    if share.generator is not None:
        share.generator.set_state(state["random_shared"])


def _gathered(own: dict[str, Tensor], world_size: int) -> tuple[dict[str, Tensor], ...]:
    """What each rank has, in their order, on every rank."""
    if world_size == 1:
        return (own,)
    every: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(every, own)
    return tuple(every)


def _agreed(answer: bool, world_size: int, device: torch.device) -> bool:
    """Rank 0's answer, on every rank."""
    if world_size == 1:
        return answer
    shared = torch.tensor(int(answer), device=device)
    torch.distributed.broadcast(shared, src=0)
    return bool(shared)


def _share_history(result: FitResult) -> None:
    """Give every rank rank 0's history, so that all stop at the same epoch."""
    shared: list[Any] = [(result.history, result.best_epoch)]
    torch.distributed.broadcast_object_list(shared, src=0)
    result.history, result.best_epoch = shared[0]
