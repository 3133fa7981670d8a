"""Stress changes what it says, from where it says, and nothing else."""

from typing import Any

import numpy as np
import pytest

from plusultra_core.errors import ConfigError
from plusultra_core.simulation.market import check_market
from plusultra_core.simulation.scenarios import ScenarioConfig, stress_costs, stress_execution, stress_market

CALM = {
    "name": "calm",
    "price_shock_frac": 0.0,
    "sigma_factor": 1.0,
    "spread_factor": 1.0,
    "volume_factor": 1.0,
    "latency_factor": 1.0,
    "fee_factor": 1.0,
}


def scenario(**changes: Any) -> ScenarioConfig:
    return ScenarioConfig(**{**CALM, **changes})


def test_a_calm_scenario_changes_nothing(world: Any) -> None:
    market = world.market(20, 2, gaps=0.1)
    for a, b in zip(market, stress_market(market, 3, 20, scenario()), strict=True):
        assert np.allclose(a, b, equal_nan=True, rtol=1e-12)


def test_a_price_shock_moves_every_price_after_the_middle(world: Any) -> None:
    market = world.market(20, 2)
    hit = stress_market(market, 4, 20, scenario(price_shock_frac=-0.2))
    check_market(hit)
    assert np.allclose(hit.close[:13], market.close[:13])
    assert np.allclose(hit.close[13:], market.close[13:] * 0.8)
    assert np.allclose(hit.open[13:], market.open[13:] * 0.8)


def test_volatility_is_stretched_in_returns_and_in_sigma_after_the_start(world: Any) -> None:
    market = world.market(30, 2)
    wild = stress_market(market, 9, 30, scenario(sigma_factor=2.0))
    check_market(wild)
    assert np.allclose(np.diff(np.log(wild.close[9:]), axis=0), 2 * np.diff(np.log(market.close[9:]), axis=0))
    assert np.allclose(wild.close[:10], market.close[:10])
    assert np.allclose(wild.sigma[10:], 0.04)


def test_every_stress_makes_a_trade_dearer_or_smaller(world: Any) -> None:
    market = world.market(10, 1, half_spread_bps=2.0)._replace(volume=np.full((10, 1), 3000.0))
    targets = np.full((9, 1), 0.5)
    plain = world.run(market, targets[:1], costs=world.costly)
    spread = world.run(stress_market(market, 0, 10, scenario(spread_factor=3.0)), targets[:1], costs=world.costly)
    assert spread.steps.spread.sum() == pytest.approx(3 * plain.steps.spread.sum())
    thin = world.run(stress_market(market, 0, 10, scenario(volume_factor=0.25)), targets[:1], costs=world.costly)
    assert thin.steps.fill.sum() == pytest.approx(0.25 * plain.steps.fill.sum())
    dear = world.run(market, targets[:1], costs=stress_costs(world.costly, scenario(fee_factor=2.0)))
    assert dear.steps.fees.sum() == pytest.approx(2 * plain.steps.fees.sum())
    assert stress_execution(world.plain, scenario(latency_factor=10.0)).latency_ms == (0.0,)


def test_a_factor_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"calm.spread_factor"):
        scenario(spread_factor=0.0)
