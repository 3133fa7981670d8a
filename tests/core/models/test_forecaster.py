"""Whole forecasters: every weight learns, no future, the same weights from the same seed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from plusultra_core import config
from plusultra_core.errors import ConfigError
from plusultra_core.models.forecaster import Forecaster, ForecasterConfig, InputShape, build_forecaster
from plusultra_core.models.hybrid import HybridBackbone, HybridConfig
from plusultra_core.models.linear import LinearConfig

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SHAPE = InputShape(num_features=6, lookback=18, num_states=(4, 4, 4), num_horizons=2)
HYBRID = {
    "width": 16,
    "num_blocks": 2,
    "num_heads": 2,
    "feedforward_factor": 2,
    "patch_bars": 4,
    "kernel_bars": 3,
    "dilations": (1, 2),
    "ssm_states": 4,
    "state_embedding": True,
    "dropout": 0.2,
}
ROOT = Path(__file__).resolve().parents[3]


def make(kind: str, **change: Any) -> ForecasterConfig:
    hybrid = HybridConfig(**{**HYBRID, **change}) if kind == "hybrid" else None
    linear = LinearConfig(width=8, trend_bars=5, lags=4) if kind == "linear" else None
    return ForecasterConfig(kind=kind, hybrid=hybrid, linear=linear, quantile_levels=LEVELS, num_classes=3)


def batch(shape: InputShape = SHAPE, size: int = 32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, shape.lookback, shape.num_features, generator=generator)
    state = torch.randint(0, 4, (size, shape.lookback, len(shape.num_states)), generator=generator)
    mask = torch.rand(size, shape.lookback, generator=generator) > 0.1
    return x, state, mask


@pytest.mark.parametrize("kind", ["hybrid", "linear"])
def test_shapes_and_finite_outputs_with_some_variance_at_init(kind: str) -> None:
    forecast = build_forecaster(make(kind), SHAPE, 0).eval()(*batch(size=256))
    assert forecast.quantiles_BKQ.shape == (256, 2, 7)
    assert forecast.logits_BKC.shape == (256, 2, 3)
    assert torch.isfinite(forecast.quantiles_BKQ).all()
    assert forecast.h_BD.var(dim=0).mean() > 1e-3
    assert 1e-5 < forecast.quantiles_BKQ[..., 3].var() < 2


@pytest.mark.parametrize("kind", ["hybrid", "linear"])
def test_every_parameter_of_every_block_and_head_gets_a_gradient(kind: str) -> None:
    model = build_forecaster(make(kind), SHAPE, 0)
    forecast = model(*batch(size=256))
    (forecast.quantiles_BKQ.square().mean() + forecast.logits_BKC.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_tokens_read_nothing_after_their_patch() -> None:
    backbone = build_forecaster(make("hybrid"), SHAPE, 0).eval().backbone
    assert isinstance(backbone, HybridBackbone)
    x, state, mask = batch()
    before = backbone.encode(x, state, mask)
    for patch in range(4):
        end = (patch + 1) * 4 - backbone.pad_bars
        after = [part.clone() for part in (x, state, mask)]
        after[0][:, end:] = 99.0
        after[1][:, end:] = 0
        after[2][:, end:] = False
        assert torch.allclose(backbone.encode(*after)[:, : patch + 1], before[:, : patch + 1], atol=1e-5)
        assert not torch.allclose(backbone.encode(*after)[:, patch + 1 :], before[:, patch + 1 :], atol=1e-5)


def test_every_bar_of_the_window_reaches_the_forecast() -> None:
    model = build_forecaster(make("hybrid"), SHAPE, 0).eval()
    x, state, mask = batch()
    x.requires_grad_(True)
    model(x, state, torch.ones_like(mask)).quantiles_BKQ.sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(dim=(0, 2)) > 0).all()


def test_states_reach_the_forecast_only_when_embedded() -> None:
    x, state, mask = batch()
    for embeds in (True, False):
        model = build_forecaster(make("hybrid", state_embedding=embeds), SHAPE, 0).eval()
        same = torch.equal(model(x, state, mask).h_BD, model(x, (state + 1) % 4, mask).h_BD)
        assert same is not embeds


def test_dropout_acts_in_training_and_not_in_eval() -> None:
    model = build_forecaster(make("hybrid"), SHAPE, 0)
    inputs = batch()
    assert not torch.equal(model(*inputs).h_BD, model(*inputs).h_BD)
    model.eval()
    assert torch.equal(model(*inputs).h_BD, model(*inputs).h_BD)


def test_the_state_space_and_the_convolutions_can_be_left_out() -> None:
    for change in ({"ssm_states": 0}, {"dilations": ()}, {"ssm_states": 0, "dilations": (), "state_embedding": False}):
        model = build_forecaster(make("hybrid", **change), SHAPE, 0)
        assert torch.isfinite(model(*batch()).quantiles_BKQ).all()
        assert ("backbone.ssm.skip_D" in model.state_dict()) == ("ssm_states" not in change)


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = (build_forecaster(make("hybrid"), SHAPE, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_linear_floor_is_linear() -> None:
    model = build_forecaster(make("linear"), SHAPE, 0).eval()
    x, state, mask = batch()
    other = torch.randn_like(x)
    middle = model(0.25 * x + 0.75 * other, state, mask).h_BD
    assert torch.allclose(middle, 0.25 * model(x, state, mask).h_BD + 0.75 * model(other, state, mask).h_BD, atol=1e-5)


@pytest.mark.parametrize("profile", ["smoke", "base", "gpu24", "h200"])
def test_every_shipped_config_builds_and_forecasts(profile: str) -> None:
    from plusultra_core.training.tasks import TrainingConfig
    from plusultra_core.windows.build import WindowsConfig

    training = config.load(TrainingConfig, ROOT / f"configs/{profile}/training.yaml")
    lookback = config.load(WindowsConfig, ROOT / f"configs/{profile}/windows.yaml").lookback
    shape = InputShape(num_features=6, lookback=lookback, num_states=(4, 4, 4), num_horizons=2)
    for cfg in (training.model, training.linear):
        model = Forecaster(cfg, shape).eval()
        assert model(*batch(shape, 4)).quantiles_BKQ.shape == (4, 2, len(cfg.quantile_levels))
        assert len(cfg.quantile_levels) == 7


def test_configs_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected the section 'linear' filled"):
        ForecasterConfig(kind="linear", hybrid=HybridConfig(**HYBRID), linear=None, quantile_levels=LEVELS, num_classes=3)
    with pytest.raises(ConfigError, match="multiple of 2 \\* num_heads"):
        make("hybrid", num_heads=3)
    with pytest.raises(ConfigError, match="dropout"):
        make("hybrid", dropout=1.0)
