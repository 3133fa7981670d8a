"""Targets from forecasts: sign, size, band and limits; and a policy that sees at work what it saw in training."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.errors import ArtifactError, ConfigError
from plusultra_core.inference.decide import PolicyDesk, SizingConfig, load_policy, size_forecast
from plusultra_core.models.bundle import load_bundle
from plusultra_core.rl.env import TradingEnv, World, sleeve
from plusultra_core.rl.tasks import RLConfig
from plusultra_core.simulation.engine import Environment
from plusultra_core.simulation.records import empty_step

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
NORMAL = np.array([-1.645, -1.282, -0.6745, 0.0, 0.6745, 1.282, 1.645])
CFG = SizingConfig(gain=1.0, horizon_index=0, band=0.0)


def quantiles(medians: list[float], risk: float = 1.0) -> np.ndarray:
    return np.array(medians)[:, None] + risk * NORMAL


def size(
    medians: list[float], now: list[float] | None = None, risk: float = 1.0, gross: float = 9.0, cfg: SizingConfig = CFG
) -> list[float]:
    held = np.array(now or [0.0] * len(medians))
    return size_forecast(quantiles(medians, risk), LEVELS, held, 0.2, gross, cfg).tolist()


def test_the_weight_is_gain_times_median_over_risk_within_the_limit() -> None:
    assert size([0.5, -0.5, 3.0, 0.0]) == pytest.approx([0.1, -0.1, 0.2, 0.0], rel=1e-3)
    assert size([0.5], risk=2.0) == pytest.approx([0.05], rel=1e-3)
    assert size([0.5], cfg=replace(CFG, gain=2.0)) == pytest.approx([0.2], rel=1e-3)


def test_the_unit_of_the_quantiles_does_not_matter() -> None:
    assert size_forecast(quantiles([0.5]) * 0.01, LEVELS, np.zeros(1), 0.2, 9.0, CFG)[0] == pytest.approx(size([0.5])[0])


def test_a_wish_within_the_band_keeps_what_is_held() -> None:
    cfg = replace(CFG, band=0.25)
    kept, traded = size([0.5, 0.5], now=[0.06, 0.04], cfg=cfg)
    assert np.isnan(kept)
    assert traded == pytest.approx(0.1, rel=1e-3)


def test_the_gross_limit_scales_all_weights_alike() -> None:
    assert size([0.5, -1.0, 0.25], gross=0.175) == pytest.approx([0.05, -0.1, 0.025], rel=1e-3)


def test_an_asset_without_a_forecast_is_held_and_takes_no_room() -> None:
    values = quantiles([0.5, 0.5])
    values[0] = np.nan
    target = size_forecast(values, LEVELS, np.array([0.1, 0.0]), 0.2, 0.1, CFG)
    assert np.isnan(target[0])
    assert target[1] == pytest.approx(0.1, rel=1e-3)


def test_a_rule_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="sizing"):
        replace(CFG, gain=0.0)


def test_the_desk_observes_and_acts_as_the_environment_of_ppo_did(chain: Any) -> None:
    """One asset through both: the table of the desk is the table of training, the action that of the rollout."""
    bundle = load_bundle(chain.paths["policy"])
    panel = chain.panel
    span = (panel.folds[-1].test[0], panel.folds[-1].test[1])
    desk = PolicyDesk(bundle, panel, span)
    setting = chain.setting()
    num_times, num_assets = setting.market.tradable.shape
    table = np.zeros((num_times, num_assets, desk._table_TNF.shape[2]), np.float32)
    table[span[0] : span[1]] = desk._table_TNF
    present = np.zeros((num_times, num_assets), np.bool_)
    present[span[0] : span[1]] = desk._present_TN
    own, free = sleeve(setting.simulation, setting.guard, 1.0)
    world = World(setting.market, panel.bar_ns, table, present, own, setting.costs, free)
    cfg: RLConfig = chain.rl
    training = TradingEnv(world, 1, None, cfg.train.episode_bars, cfg.band, cfg.reward)
    training.start_at(np.array([2]), np.array([span[0]]))
    working = Environment(setting.market, 1, 1, panel.bar_ns, own, setting.costs, free)
    zero = np.zeros(1, np.int64)
    working.reset(zero, np.array([span[0]]), np.array([[2]]), zero)
    desk.limit = 1.0
    step = empty_step((1, 1))
    for _ in range(8):
        with torch.no_grad():
            action = desk.policy.act(torch.from_numpy(training.obs_EP)).double().numpy()
        target = desk.decide(working.accounts, step, np.array([span[0]]))
        training.step(action, None)
        step = working.step(target)
        assert np.array_equal(training.env.accounts.equity_E, working.accounts.equity_E)


def test_a_policy_bundle_is_self_contained_and_nothing_else_is_taken_for_one(chain: Any) -> None:
    bundle = load_bundle(chain.paths["policy"])
    policy = load_policy(bundle)
    assert {name.split(".")[0] for name in bundle.tensors} == {"forecaster", "policy"}
    assert torch.equal(policy.center_F, bundle.tensors["policy.center_F"])
    with pytest.raises(ArtifactError, match="expected a bundle of kind policy"):
        load_policy(load_bundle(chain.paths["supervised"] / "fold_0" / "hybrid"))
    broken = replace(bundle, tensors={name: tensor for name, tensor in bundle.tensors.items() if name != "policy.logstd"})
    with pytest.raises(ArtifactError, match="logstd"):
        load_policy(broken)
