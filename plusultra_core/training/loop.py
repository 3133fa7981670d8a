"""One training loop, on Lightning Fabric: AdamW, warm-up and cosine, clipped gradients, early stopping, exact resume.

An epoch is cut into checks. Order and dropout are drawn from (seed, epoch, check), and the state after every check lies
in one checkpoint: a run that was killed goes on from its last check and ends with the bytes of a run that was not.
"""

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from plusultra_core import artifacts
from plusultra_core.errors import ArtifactError, ConfigError, JobError

Row = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """How a model is fitted."""

    max_epochs: int
    """Epochs at most."""
    checks_per_epoch: int
    """Validations, and checkpoints, in an epoch: weak signals are learned, and over-learned, within one. No more than it has steps."""
    patience: int
    """Checks without a better validation loss before the fit stops; the best weights are kept."""
    batch_size: int
    """Windows per step."""
    learning_rate: float
    """Peak of the schedule."""
    warmup_frac: float
    """Share of all steps in which the rate rises linearly; then it falls as a cosine to 0."""
    weight_decay: float
    """Of AdamW, on matrices only."""
    grad_clip: float
    """Largest norm of the gradient."""

    def __post_init__(self) -> None:
        for name in ("max_epochs", "checks_per_epoch", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected >= 1, found {getattr(self, name)}")
        if self.learning_rate <= 0 or self.grad_clip <= 0 or self.weight_decay < 0 or not 0 <= self.warmup_frac < 1:
            raise ConfigError("fit: expected learning_rate, grad_clip > 0, weight_decay >= 0, warmup_frac in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class HardwareConfig:
    """Where the fit runs."""

    accelerator: Literal["cpu", "cuda"]
    """Lightning's accelerator."""
    precision: Literal["32-true", "bf16-mixed"]
    """Lightning's precision; losses and quantile sums stay in float32."""
    num_threads: int
    """Threads of torch; part of the result's bytes on a CPU."""

    def __post_init__(self) -> None:
        if self.num_threads < 1:
            raise ConfigError(f"num_threads: expected >= 1, found {self.num_threads}")


class Objective(Protocol):
    """What is fitted: a loss over samples by index, and a validation."""

    num_samples: int

    def loss(self, model: nn.Module, index_B: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of some samples."""

    def validate(self, model: nn.Module) -> Row:
        """Scores on validation; `loss` decides when to stop."""


class Fit(NamedTuple):
    """Best weights, one row per check, and the row the weights are from."""

    tensors: dict[str, Tensor]
    history: list[Row]
    best_check: int


class _State(NamedTuple):
    history: list[Row]
    best: dict[str, Tensor]
    best_loss: float
    best_check: int


@contextmanager
def open_fabric(cfg: HardwareConfig) -> Iterator[Any]:
    """Lightning Fabric on the configured hardware, with deterministic kernels and a fixed number of threads meanwhile."""
    from lightning.fabric import Fabric

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(cfg.num_threads)
    torch.use_deterministic_algorithms(True, warn_only=cfg.accelerator != "cpu")
    try:
        yield Fabric(accelerator=cfg.accelerator, devices=1, precision=cfg.precision)
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)


def fit(
    fabric: Any,
    model: nn.Module,
    objective: Objective,
    cfg: FitConfig,
    seed: int,
    checkpoint: Path,
    report: Callable[[Row], None],
) -> Fit:
    """Fit `model` in place and leave it with its best weights.

    `checkpoint` is written after every check and read at the start if it is there. `report` gets each check's row.
    Raises  JobError when a loss is not finite.
    """
    num_steps = math.ceil(objective.num_samples / cfg.batch_size)
    cfg = replace(cfg, checks_per_epoch=min(cfg.checks_per_epoch, max(1, num_steps)))
    optimizer = torch.optim.AdamW(_parameter_groups(model, cfg.weight_decay), lr=cfg.learning_rate)
    state = _restore(checkpoint, model, optimizer)
    wrapped, stepper = fabric.setup(model, optimizer)
    while len(state.history) < cfg.max_epochs * cfg.checks_per_epoch and len(state.history) - 1 - state.best_check < cfg.patience:
        check = len(state.history)
        train_loss = _train_until_check(fabric, wrapped, stepper, objective, cfg, seed, check)
        wrapped.eval()
        with torch.no_grad():
            scores = objective.validate(wrapped)
        if not (math.isfinite(train_loss) and math.isfinite(scores["loss"])):
            raise JobError(f"{checkpoint.stem}, check {check}: loss is not finite ({train_loss}, {scores['loss']}); lower learning_rate")
        row = {
            "epoch": (check + 1) / cfg.checks_per_epoch,
            "train_loss": train_loss,
            **{f"valid_{name}": value for name, value in scores.items()},
        }
        history = [*state.history, row]
        if scores["loss"] < state.best_loss:
            state = _State(history, _copy(model), scores["loss"], check)
        else:
            state = state._replace(history=history)
        _store(checkpoint, model, optimizer, state)
        report(row)
    model.load_state_dict(state.best)
    model.eval()
    return Fit(_copy(model), state.history, state.best_check)


def mix_seed(*parts: int) -> int:
    """A seed that depends on every part and on their order."""
    mixed = 0
    for part in parts:
        mixed = (mixed * 1_000_003 + part + 0x9E3779B9) % (2**63 - 1)
    return mixed


def learning_rate_at(step: int, num_steps: int, cfg: FitConfig) -> float:
    """Rate of a step: linear warm-up, then a cosine to 0."""
    warmup = max(1, round(cfg.warmup_frac * num_steps))
    if step < warmup:
        return cfg.learning_rate * (step + 1) / warmup
    return cfg.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def _train_until_check(fabric: Any, model: Any, optimizer: Any, objective: Objective, cfg: FitConfig, seed: int, check: int) -> float:
    """The steps between two checks; returns the mean loss on the way."""
    epoch, part = divmod(check, cfg.checks_per_epoch)
    order = torch.randperm(objective.num_samples, generator=torch.Generator().manual_seed(mix_seed(seed, epoch)))
    batches = torch.split(order, cfg.batch_size)
    first, last = (len(batches) * i // cfg.checks_per_epoch for i in (part, part + 1))
    generator = torch.Generator().manual_seed(mix_seed(seed, epoch, part))
    total, count = torch.zeros((), device=fabric.device), 0
    model.train()
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        torch.manual_seed(mix_seed(seed, epoch, part, 1))
        for i in range(first, last):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(epoch * len(batches) + i, cfg.max_epochs * len(batches), cfg)
            loss = objective.loss(model, batches[i].to(fabric.device), generator)
            optimizer.zero_grad()
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=cfg.grad_clip, error_if_nonfinite=False)
            optimizer.step()
            total += loss.detach() * len(batches[i])
            count += len(batches[i])
    return float(total) / max(1, count)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _store(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: _State) -> None:
    buffer = io.BytesIO()
    torch.save({**state._asdict(), "model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    artifacts.write_atomic(path, buffer.getvalue())


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> _State:
    if not path.exists():
        return _State([], _copy(model), math.inf, 0)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        return _State(saved["history"], saved["best"], saved["best_loss"], saved["best_check"])
    except Exception as error:
        raise ArtifactError(f"{path}: not a checkpoint of this model ({type(error).__name__}: {error}); delete it") from error
