"""The loop: schedule, early stopping, exact resume after a stop at any point."""

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plusultra_core.errors import ArtifactError, ConfigError, JobError
from plusultra_core.training.loop import FitConfig, HardwareConfig, fit, learning_rate_at, mix_seed, open_fabric

CFG = FitConfig(
    max_epochs=6, checks_per_epoch=1, patience=6, batch_size=16, learning_rate=5e-2, warmup_frac=0.1, weight_decay=0.01, grad_clip=1.0
)
CPU = HardwareConfig(accelerator="cpu", precision="32-true", num_threads=1)


class Regression:
    """y = x w + noise, with dropout in the model; can stop after so many steps."""

    num_samples = 100

    def __init__(self, stop_after: int = 10**9, valid: Any = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(100, 5, generator=generator)
        self.y = self.x.sum(dim=1, keepdim=True) + 0.1 * torch.randn(100, 1, generator=generator)
        self.left, self.valid, self.seen = stop_after, valid, []

    def loss(self, model: nn.Module, index_B: Tensor, generator: torch.Generator) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.seen.append(index_B.tolist())
        noise = torch.randn(len(index_B), 1, generator=generator) * 0.01
        return (model(self.x[index_B]) + noise - self.y[index_B]).square().mean()

    def validate(self, model: nn.Module) -> dict[str, float]:
        assert not model.training
        if self.valid is not None:
            return {"loss": self.valid.pop(0)}
        return {"loss": float((model(self.x) - self.y).square().mean())}


def _model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.2), nn.GELU(), nn.Linear(8, 1))


def _fit(objective: Regression, path: Path, cfg: FitConfig = CFG, rows: list[Any] | None = None) -> Any:
    model = _model()
    with open_fabric(CPU) as fabric:
        return fit(fabric, model, objective, cfg, 3, path, (rows if rows is not None else []).append)


def test_a_fit_lowers_the_loss_and_reports_every_epoch(tmp_path: Path) -> None:
    rows: list[Any] = []
    result = _fit(Regression(), tmp_path / "c.pt", rows=rows)
    assert rows == result.history
    assert [row["epoch"] for row in rows] == list(range(1, 7))
    assert rows[-1]["valid_loss"] < 0.5 * rows[0]["valid_loss"]


def test_every_sample_is_seen_once_an_epoch_in_another_order_each_time(tmp_path: Path) -> None:
    objective = Regression()
    _fit(objective, tmp_path / "c.pt")
    steps = math.ceil(100 / 16)
    epochs = [[index for batch in objective.seen[i * steps : (i + 1) * steps] for index in batch] for i in range(6)]
    assert all(sorted(order) == list(range(100)) for order in epochs)
    assert epochs[0] != epochs[1]


def test_checks_cut_an_epoch_without_losing_or_repeating_a_sample(tmp_path: Path) -> None:
    objective = Regression()
    result = _fit(objective, tmp_path / "c.pt", dataclasses.replace(CFG, max_epochs=2, checks_per_epoch=3))
    assert [row["epoch"] for row in result.history] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    steps = math.ceil(100 / 16)
    for epoch in range(2):
        assert sorted(index for batch in objective.seen[epoch * steps : (epoch + 1) * steps] for index in batch) == list(range(100))


@pytest.mark.parametrize("batch_size", [100, 50])
def test_no_check_is_made_without_a_step_before_it(tmp_path: Path, batch_size: int) -> None:
    """A check that nothing was learned for has no loss to tell, and would use up the patience."""
    objective = Regression()
    result = _fit(objective, tmp_path / "c.pt", dataclasses.replace(CFG, batch_size=batch_size, max_epochs=2, checks_per_epoch=3))
    steps = 100 // batch_size
    assert len(result.history) == len(objective.seen) == 2 * steps
    assert [row["epoch"] for row in result.history] == [(i + 1) / steps for i in range(2 * steps)]
    assert all(row["train_loss"] > 0 for row in result.history)


@pytest.mark.parametrize("checks", [1, 3])
@pytest.mark.parametrize("stop_after", [1, 7, 10, 14, 30, 41])
def test_a_fit_that_was_stopped_anywhere_ends_with_the_same_bytes(tmp_path: Path, stop_after: int, checks: int) -> None:
    cfg = dataclasses.replace(CFG, checks_per_epoch=checks, patience=18)
    whole = _fit(Regression(), tmp_path / "whole.pt", cfg)
    with pytest.raises(KeyboardInterrupt):
        _fit(Regression(stop_after), tmp_path / "cut.pt", cfg)
    objective = Regression()
    resumed = _fit(objective, tmp_path / "cut.pt", cfg)
    assert resumed.history == whole.history
    assert all(torch.equal(resumed.tensors[name], whole.tensors[name]) for name in whole.tensors)
    assert 42 - stop_after <= len(objective.seen) < 42 - stop_after + 7 // checks + 1


def test_a_finished_fit_is_not_repeated(tmp_path: Path) -> None:
    whole = _fit(Regression(), tmp_path / "c.pt")
    objective = Regression()
    again = _fit(objective, tmp_path / "c.pt")
    assert objective.seen == []
    assert all(torch.equal(again.tensors[name], whole.tensors[name]) for name in whole.tensors)


def test_training_stops_when_validation_gets_no_better_and_keeps_the_best_weights(tmp_path: Path) -> None:
    cfg = dataclasses.replace(CFG, patience=2, max_epochs=10)
    result = _fit(Regression(valid=[3.0, 1.0, 2.0, 2.0, 0.0]), tmp_path / "c.pt", cfg)
    assert len(result.history) == 4
    assert result.best_check == 1
    other = _fit(Regression(valid=[3.0, 1.0, 5.0, 5.0]), tmp_path / "e.pt", cfg)
    assert all(torch.equal(result.tensors[name], other.tensors[name]) for name in result.tensors)


def test_a_loss_that_is_not_finite_stops_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"c, check 0: loss is not finite .* lower learning_rate"):
        _fit(Regression(valid=[float("nan")]), tmp_path / "c.pt")


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "c.pt")
    with pytest.raises(ArtifactError, match="not a checkpoint of this model"):
        _fit(Regression(), tmp_path / "c.pt")


def test_the_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate_at(step, 100, CFG) for step in range(100)]
    assert rates[0] == pytest.approx(5e-3)
    assert max(rates) == pytest.approx(5e-2)
    assert rates.index(max(rates)) in (9, 10)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 5e-5


def test_settings_of_the_process_are_put_back() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with open_fabric(HardwareConfig(accelerator="cpu", precision="32-true", num_threads=1)):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_seeds_depend_on_every_part_and_on_their_order() -> None:
    seeds = {mix_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2_500
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    "change", [{"max_epochs": 0}, {"checks_per_epoch": 0}, {"learning_rate": 0.0}, {"warmup_frac": 1.0}, {"grad_clip": 0.0}]
)
def test_impossible_configs_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        dataclasses.replace(CFG, **change)
