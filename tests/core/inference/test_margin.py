"""Strategies where nothing can be sold short: what should fall is not held, and takes no room from what should rise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plusultra_core.inference.portfolios.rules import mean_variance
from plusultra_core.inference.strategies import Setting, random_like, run_strategy, sized
from plusultra_core.inference.trace import Stage, open_stage, traded_horizon
from plusultra_core.job import Job
from plusultra_core.market import MarginConfig

CASH = MarginConfig(account="cash", max_leverage=1.0, maintenance_margin=0.0, liquidation_penalty_bps=0.0, shorts=False, reserve_frac=0.02)


@pytest.fixture(scope="module")
def stage(chain: Any) -> Stage:
    return open_stage(Job("trace", "x", chain.settings(), chain.paths, chain.base, chain.base, {}))


@pytest.fixture(scope="module")
def cash(stage: Stage) -> Setting:
    """The same market, paid for."""
    return stage.setting._replace(costs=replace(stage.setting.costs, borrow_bps_year=0.0, margin=CASH))


@pytest.fixture(scope="module")
def loud(stage: Stage) -> np.ndarray:
    """Forecasts of which half fall, and which pay for their trades."""
    values = stage.quantiles["hybrid"].copy()
    rng = np.random.default_rng(3)
    return np.asarray(values + rng.choice([-2.0, 2.0], values.shape[:2])[:, :, None])


def test_sizing_gives_what_falls_no_part_of_the_gross_limit(stage: Stage, cash: Setting, loud: np.ndarray) -> None:
    guard = replace(cash.guard, max_weight=0.4, max_gross=0.5)
    rule = sized(loud, stage.first, traded_horizon(stage), guard, stage.cfg.sizing)
    lent, paid = (run_strategy(setting._replace(guard=guard), stage.locked, rule) for setting in (stage.setting, cash))
    assert np.nanmin(lent.steps.request) < 0.0
    assert np.nanmin(paid.steps.request) == 0.0
    assert paid.steps.position.min() >= -1e-9
    assert np.nanmax(paid.steps.request) > np.nanmax(lent.steps.request)


def test_mean_variance_holds_no_short_and_random_draws_none(stage: Stage, cash: Setting, loud: np.ndarray) -> None:
    rule = mean_variance(loud, stage.first, traded_horizon(stage), cash.market, cash.guard, stage.cfg.mean_variance)
    lent, paid = (run_strategy(setting, stage.locked, rule) for setting in (stage.setting, cash))
    assert np.nanmin(lent.steps.request) < 0.0
    assert np.nanmin(paid.steps.request) >= 0.0
    assert np.nanmax(paid.steps.request) > 0.0
    present = np.isfinite(loud[stage.locked[0] - stage.first :, :, 0])
    drawn = run_strategy(cash, stage.locked, random_like(paid, present, stage.locked[0], 7, shorts=False))
    assert np.nanmin(drawn.steps.request) >= 0.0
    assert drawn.account()["gross"][1:].mean() == pytest.approx(paid.account()["gross"][1:].mean(), rel=0.6)
