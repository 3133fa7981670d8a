"""Losses against closed forms and slow twins."""

import math

import pytest
import scoringrules
import torch

from plusultra_core.models.forecaster import InputShape, build_forecaster
from plusultra_core.training.losses import direction_nll, forecast_loss, pinball, weighted_mean

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def test_pinball_equals_the_peer_library() -> None:
    torch.manual_seed(0)
    quantiles, y = torch.randn(20, 2, 7, dtype=torch.float64).sort(dim=-1).values, torch.randn(20, 2, dtype=torch.float64)
    ours = pinball(quantiles, y, torch.tensor(LEVELS, dtype=torch.float64))
    for q, level in enumerate(LEVELS):
        theirs = scoringrules.quantile_score(y.numpy(), quantiles[..., q].numpy(), level)
        assert torch.allclose(ours[..., q], torch.from_numpy(theirs))


def test_the_best_constant_under_pinball_is_the_empirical_quantile() -> None:
    y = torch.linspace(0, 1, 1_001, dtype=torch.float64)[:, None]
    grid = torch.linspace(0, 1, 101, dtype=torch.float64)
    for level in (0.1, 0.5, 0.9):
        loss = [pinball(value.expand(1_001, 1, 1), y, torch.tensor([level], dtype=torch.float64)).mean() for value in grid]
        assert grid[int(torch.stack(loss).argmin())].item() == pytest.approx(level, abs=0.011)


def test_direction_loss_is_the_likelihood_and_skips_what_is_missing() -> None:
    logits = torch.zeros(2, 1, 3)
    loss = direction_nll(logits, torch.tensor([[2], [-1]]))
    assert loss[0, 0].item() == pytest.approx(math.log(3))
    assert loss[1, 0].item() == 0


def test_a_row_without_weight_does_not_count_even_if_it_is_nan() -> None:
    loss = torch.tensor([[1.0], [float("nan")], [4.0]])
    assert weighted_mean(loss, torch.tensor([[1.0], [0.0], [3.0]])).item() == pytest.approx(13 / 4)
    assert weighted_mean(loss, torch.zeros(3, 1)).item() == 0


def _loss(y: torch.Tensor, weight: torch.Tensor, clip: float = 6.0) -> torch.Tensor:
    quantiles = torch.linspace(-1, 1, 7).expand(len(y), y.shape[1], 7)
    direction = torch.where(y.isfinite(), 1, -1)
    return forecast_loss(quantiles, torch.zeros(len(y), y.shape[1], 3), y, direction, weight, torch.tensor(LEVELS), 0.5, clip)[1]


def test_missing_targets_do_not_change_the_loss_of_the_rest() -> None:
    y = torch.tensor([[0.3, -0.2], [1.0, 0.5]])
    padded = torch.cat((y, torch.full((3, 2), float("nan"))))
    assert torch.allclose(_loss(y, torch.ones(2)), _loss(padded, torch.ones(5)))


def test_targets_are_clipped_in_the_loss() -> None:
    far, near = torch.tensor([[100.0]]), torch.tensor([[6.0]])
    assert torch.equal(_loss(far, torch.ones(1)), _loss(near, torch.ones(1)))
    assert _loss(far, torch.ones(1), clip=50.0) > _loss(far, torch.ones(1))


def test_every_parameter_of_both_heads_has_a_term_in_the_loss(training_config) -> None:
    torch.manual_seed(0)
    shape = InputShape(num_features=4, lookback=8, num_states=(4, 4), num_horizons=2)
    for cfg in (training_config.model, training_config.linear):
        model = build_forecaster(cfg, shape, 0)
        out = model(torch.randn(64, 8, 4), torch.randint(0, 4, (64, 8, 2)), torch.rand(64, 8) > 0.1)
        y = torch.randn(64, 2)
        direction = torch.randint(0, 3, (64, 2))
        total = forecast_loss(out.quantiles_BKQ, out.logits_BKC, y, direction, torch.ones(64), torch.tensor(LEVELS), 0.1, 6.0)[0]
        total.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_loss_of_a_batch_does_not_depend_on_its_order() -> None:
    """Nothing in the loss runs along the batch: samples are shuffled, and no path, no drawdown may be read from their order."""
    generator = torch.Generator().manual_seed(0)
    quantiles = torch.randn(64, 2, 7, generator=generator, dtype=torch.float64).sort(dim=-1).values
    logits, y = (
        torch.randn(64, 2, 3, generator=generator, dtype=torch.float64),
        torch.randn(64, 2, generator=generator, dtype=torch.float64),
    )
    direction = torch.randint(-1, 3, (64, 2), generator=generator)
    weight, levels = torch.rand(64, generator=generator, dtype=torch.float64), torch.tensor(LEVELS, dtype=torch.float64)

    def total(order: torch.Tensor) -> torch.Tensor:
        return forecast_loss(quantiles[order], logits[order], y[order], direction[order], weight[order], levels, 0.5, 6.0)[0]

    for _ in range(5):
        assert torch.allclose(total(torch.randperm(64, generator=generator)), total(torch.arange(64)), rtol=1e-12)
