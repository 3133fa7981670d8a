"""Quantiles never cross, and the heads are trained."""

import pytest
import torch

from plusultra_core.errors import ConfigError
from plusultra_core.models.heads import DirectionHead, QuantileHead, check_levels, level_digits

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def test_quantiles_rise_whatever_the_input() -> None:
    torch.manual_seed(0)
    head = QuantileHead(16, 2, LEVELS)
    for scale in (1.0, 10.0):
        quantiles = head(torch.randn(5_000, 16) * scale)
        assert (quantiles.diff(dim=-1) > 0).all()


def test_quantiles_do_not_cross_under_low_precision() -> None:
    torch.manual_seed(0)
    head = QuantileHead(16, 2, LEVELS)
    with torch.autocast("cpu", torch.bfloat16):
        quantiles = head(torch.randn(5_000, 16))
    assert quantiles.dtype == torch.float32
    assert (quantiles.diff(dim=-1) > 0).all()


def test_steps_start_at_softplus_of_minus_one_around_a_median_of_zero() -> None:
    head = QuantileHead(8, 1, LEVELS)
    quantiles = head(torch.zeros(1, 8))[0, 0]
    step = torch.nn.functional.softplus(torch.tensor(-1.0))
    assert torch.allclose(quantiles, step * torch.arange(-3, 4), atol=1e-6)


def test_outer_quantiles_are_sums_outward_from_the_median() -> None:
    torch.manual_seed(0)
    head = QuantileHead(8, 2, LEVELS)
    h = torch.randn(3, 8)
    raw = head.project(h).view(3, 2, 7)
    softplus = torch.nn.functional.softplus
    assert torch.allclose(head(h)[..., 3], raw[..., 3])
    assert torch.allclose(head(h)[..., 5], raw[..., 3] + softplus(raw[..., 4]) + softplus(raw[..., 5]), atol=1e-6)
    assert torch.allclose(head(h)[..., 1], raw[..., 3] - softplus(raw[..., 2]) - softplus(raw[..., 1]), atol=1e-6)


def test_direction_scores_have_their_shape() -> None:
    assert DirectionHead(8, 2, 3)(torch.randn(5, 8)).shape == (5, 2, 3)


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.5, 0.1), (0.0, 0.5), (0.5, 0.5)])
def test_levels_without_median_or_order_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="quantile_levels: expected rising numbers"):
        check_levels(levels)


def test_no_two_levels_have_one_name() -> None:
    assert [level_digits(level) for level in (0.005, 0.025, 0.05, 0.1, 0.5, 0.975, 0.995)] == ["005", "025", "05", "10", "50", "975", "995"]
    assert len({level_digits(level / 1_000) for level in range(1, 1_000)}) == 999
    assert all(float(f"0.{level_digits(level / 1_000)}") == level / 1_000 for level in range(1, 1_000))


def test_a_level_that_has_no_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="quantile_levels: expected at most three decimals"):
        check_levels((1 / 6, 0.5, 5 / 6))


def test_heads_can_start_from_the_climate() -> None:
    head = QuantileHead(8, 2, LEVELS)
    climate = torch.tensor([[-1.6, -1.3, -0.7, 0.05, 0.7, 1.3, 1.6], [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]])
    head.set_climate(climate)
    assert torch.allclose(head(torch.zeros(1, 8))[0], climate, atol=1e-5)
    head.set_climate(100.0 * climate)
    assert torch.allclose(head(torch.zeros(1, 8))[0], 100.0 * climate, rtol=1e-5, atol=1e-4)
    head.set_climate(torch.zeros(2, 7))
    assert (head(torch.randn(50, 8)).diff(dim=-1) > 0).all()
    direction = DirectionHead(8, 2, 3)
    share = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
    direction.set_climate(share)
    assert torch.allclose(direction(torch.zeros(1, 8)).softmax(-1)[0], share, atol=1e-6)
