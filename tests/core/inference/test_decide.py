"""Targets from forecasts: sign, size, band and limits; and a policy that sees at work what it saw in training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ArtifactError, ConfigError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.inference.decide import Book, PolicyDesk, SizingConfig, load_policy, order_hurdle, size_forecast
from plusultra_core.market import CostsConfig, MarginConfig
from plusultra_core.models.bundle import load_bundle
from plusultra_core.rl.env import TradingEnv, World, sleeve
from plusultra_core.rl.train import RLConfig
from plusultra_core.simulation.engine import Environment, SimulationConfig, build_rules
from plusultra_core.simulation.market import plain_terms
from plusultra_core.simulation.records import MarketArrays, empty_step

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
NORMAL = np.array([-1.645, -1.282, -0.6745, 0.0, 0.6745, 1.282, 1.645])
CFG = SizingConfig(gain=1.0, horizon_index=0, band=0.0, cost_factor=0.0)
ROOT = Path(__file__).resolve().parents[3]


COSTS = CostsConfig(
    fee_bps=3.0, fee_min_ccy=0.0, half_spread_bps=2.0, impact_coef=0.0, impact_exponent=0.5, borrow_bps_year=0.0, funding=False,
    margin=MarginConfig(
        account="margin", max_leverage=2.0, maintenance_margin=0.25, liquidation_penalty_bps=50.0, shorts=True, reserve_frac=0.0
    ),
)  # fmt: skip


def quantiles(medians: list[float], risk: float = 1.0) -> np.ndarray:
    return np.array(medians)[:, None] + risk * NORMAL


def size(
    medians: list[float], now: list[float] | None = None, risk: float = 1.0, gross: float = 9.0, cfg: SizingConfig = CFG
) -> list[float]:
    return size_forecast(quantiles(medians, risk), LEVELS, book(now or [0.0] * len(medians)), 0.2, gross, cfg).tolist()


def book(now: list[float], working: list[float] | None = None, **changes: Any) -> Book:
    """A market of 2 bps half spread and 3 bps fee, no impact, of 1 % a bar, traded over 4 bars."""
    simulation = config.load(SimulationConfig, ROOT / "configs" / "base" / "simulation.yaml")
    rules = build_rules(simulation, replace(COSTS, **changes), NS_PER_DAY)
    full = np.ones(len(now))
    return Book(np.array(now), np.array(working or [0.0] * len(now)), 0.01 * full, 1e9 * full, 2.0 * full, 1e6, rules, 4, True)


def test_the_weight_is_gain_times_median_over_risk_within_the_limit() -> None:
    assert size([0.5, -0.5, 3.0, 0.0]) == pytest.approx([0.1, -0.1, 0.2, 0.0], rel=1e-3)
    assert size([0.5], risk=2.0) == pytest.approx([0.05], rel=1e-3)
    assert size([0.5], cfg=replace(CFG, gain=2.0)) == pytest.approx([0.2], rel=1e-3)


def test_the_unit_of_the_quantiles_does_not_matter() -> None:
    assert size_forecast(quantiles([0.5]) * 0.01, LEVELS, book([0.0]), 0.2, 9.0, CFG)[0] == pytest.approx(size([0.5])[0])


def test_a_wish_within_the_band_keeps_what_is_held() -> None:
    cfg = replace(CFG, band=0.25)
    kept, traded = size([0.5, 0.5], now=[0.06, 0.04], cfg=cfg)
    assert np.isnan(kept)
    assert traded == pytest.approx(0.1, rel=1e-3)


def test_a_forecast_that_does_not_pay_for_the_way_in_and_out_opens_nothing_and_still_reduces() -> None:
    """In and out cost 2 x 5 bps = 0.05 of the 2 % that four bars move."""
    cfg = replace(CFG, cost_factor=2.0)
    assert size([0.049, -0.049, 0.051, -0.051], cfg=cfg) == pytest.approx([0.0, 0.0, 0.2 * 0.051, -0.2 * 0.051], abs=1e-5)
    assert size([0.049, 0.049, -0.049], now=[0.1, 0.005, 0.1], cfg=cfg) == pytest.approx([0.2 * 0.049, 0.005, 0.0], abs=1e-5)
    assert size([0.049], cfg=replace(CFG, cost_factor=1.9)) == pytest.approx([0.2 * 0.049], abs=1e-5)


def test_a_short_has_to_pay_for_its_loan_too() -> None:
    borrowed = book([0.0, 0.0], borrow_bps_year=365.25 * 5.0)  # 4 bars x 5 bps = 0.1 of the move
    target = size_forecast(quantiles([0.1, -0.1]), LEVELS, borrowed, 0.2, 9.0, replace(CFG, cost_factor=2.0))
    assert target.tolist() == pytest.approx([0.02, 0.0], abs=1e-5)


def test_the_hurdle_is_what_the_simulator_charges_for_the_order() -> None:
    priced = book([0.0], impact_coef=1.5, fee_min_ccy=90.0)
    hurdle = order_hurdle(np.array([0.1]), priced, 1.0)[0]
    shape = (3, 1)
    price = np.full(shape, 100.0)
    market = MarketArrays(
        ts_ns=np.arange(3, dtype=np.int64) * NS_PER_DAY, open=price, high=price, low=price, close=price, volume=np.full(shape, 1e7),
        funding=np.zeros(shape), sigma=np.full(shape, 0.01), adv_ccy=np.full(shape, 1e9), half_spread_bps=np.full(shape, 2.0),
        tradable=np.ones(shape, np.bool_), proxy=np.zeros(shape, np.int8), **plain_terms(np.arange(3) * NS_PER_DAY, 1),
    )  # fmt: skip
    env = Environment(market, 1, 1, NS_PER_DAY, config.load(SimulationConfig, ROOT / "configs" / "base" / "simulation.yaml"),
                      replace(COSTS, fee_min_ccy=90.0, impact_coef=1.5),
                      config.load(GuardrailsConfig, ROOT / "configs" / "base" / "guardrails.yaml"))  # fmt: skip
    zero = np.zeros(1, np.int64)
    env.reset(zero, zero, zero[None], zero)
    step = env.step(np.array([[0.1]]))
    paid = (step.spread + step.impact + step.fees)[0, 0] / 1e5
    assert hurdle * 0.01 * 2.0 == pytest.approx(paid, rel=1e-9)


def test_without_a_known_equity_nothing_grows() -> None:
    unknown = book([0.0, 0.1])._replace(equity_ccy=float("nan"))
    target = size_forecast(quantiles([1.0, 0.1]), LEVELS, unknown, 0.2, 9.0, replace(CFG, cost_factor=2.0))
    assert target.tolist() == pytest.approx([0.0, 0.02], abs=1e-5)


def test_the_gross_limit_scales_all_weights_alike() -> None:
    assert size([0.5, -1.0, 0.25], gross=0.175) == pytest.approx([0.05, -0.1, 0.025], rel=1e-3)


def test_an_asset_without_a_forecast_is_held_and_takes_no_room() -> None:
    values = quantiles([0.5, 0.5])
    values[0] = np.nan
    target = size_forecast(values, LEVELS, book([0.1, 0.0]), 0.2, 0.1, CFG)
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
    policy = load_policy(bundle, len(chain.panel.symbols))
    assert {name.split(".")[0] for name in bundle.tensors} == {"forecaster", "policy"}
    assert torch.equal(policy.center_F, bundle.tensors["policy.center_F"])
    with pytest.raises(ArtifactError, match="expected a bundle of kind policy"):
        load_policy(load_bundle(chain.paths["supervised"] / "fold_0" / "hybrid"), 4)
    broken = replace(bundle, tensors={name: tensor for name, tensor in bundle.tensors.items() if name != "policy.logstd"})
    with pytest.raises(ArtifactError, match="logstd"):
        load_policy(broken, 4)
