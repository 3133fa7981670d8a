"""A small market and the configs of a run, as functions that tests bend to their case."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from plusultra_core.arrays import Float64Array
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.market import CostsConfig, MarginConfig
from plusultra_core.simulation.engine import SimulationConfig, backtest
from plusultra_core.simulation.ledger import Ledger
from plusultra_core.simulation.market import check_market, plain_terms
from plusultra_core.simulation.records import MarketArrays

LENT = MarginConfig(
    account="margin", max_leverage=10.0, maintenance_margin=0.01, liquidation_penalty_bps=50.0, shorts=True, reserve_frac=0.0
)
FREE = CostsConfig(
    fee_bps=0.0, fee_min_ccy=0.0, half_spread_bps=0.0, impact_coef=0.0, impact_exponent=0.5, borrow_bps_year=0.0, funding=False, margin=LENT
)
COSTLY = CostsConfig(
    fee_bps=5.0, fee_min_ccy=1.0, half_spread_bps=3.0, impact_coef=1.0, impact_exponent=0.5, borrow_bps_year=100.0, funding=True,
    margin=LENT,
)  # fmt: skip
WIDE = GuardrailsConfig(
    max_weight=10.0, max_gross=10.0, max_net=10.0, max_participation=1e9, reduce_drawdown=1.0, resume_drawdown=1.0, halt_drawdown=1.0
)
PLAIN = SimulationConfig(
    initial_capital_ccy=1e6,
    latency_ms=(0.0,),
    latency_prob=(1.0,),
    participation=1.0,
    time_in_force="bar",
    order_type="market",
    limit_offset_bps=0.0,
    maker_fee_factor=1.0,
    permanent_coef=0.0,
    permanent_decay_frac=0.0,
    min_order_ccy=1e-3,
    retarget_frac=0.0,
    adv_bars=5,
    fallback_sigma=0.02,
    seed=7,
)


def make_market(num_bars: int, num_assets: int, seed: int = 0, gaps: float = 0.0, half_spread_bps: float = 0.0) -> MarketArrays:
    """A random market with gaps, bars without open, and bars without volume."""
    rng = np.random.default_rng(seed)
    shape = (num_bars, num_assets)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.02, shape), axis=0))
    open_ = close * np.exp(rng.normal(0, 0.01, shape))
    high, low = np.maximum(open_, close) * 1.005, np.minimum(open_, close) * 0.995
    tradable = rng.random(shape) >= gaps
    open_[rng.random(shape) < gaps] = np.nan
    volume = rng.uniform(1e4, 1e6, shape) * tradable * (rng.random(shape) >= gaps)
    for array in (open_, high, low, close):
        array[~tradable] = np.nan
    market = MarketArrays(
        ts_ns=np.arange(num_bars, dtype=np.int64) * NS_PER_DAY,
        open=open_,
        high=high,
        low=low,
        close=close,
        volume=volume,
        funding=rng.normal(0, 1e-4, shape) * tradable,
        sigma=np.full(shape, 0.02),
        adv_ccy=np.full(shape, 5e7),
        half_spread_bps=np.full(shape, half_spread_bps),
        tradable=tradable,
        proxy=np.zeros(shape, np.int8),
        **plain_terms(np.arange(num_bars) * NS_PER_DAY, num_assets),
    )
    check_market(market)
    return market


def flat_market(num_bars: int, price: float = 100.0, volume: float = 1e12, half_spread_bps: float = 0.0) -> MarketArrays:
    """One asset at a constant price."""
    market = make_market(num_bars, 1, half_spread_bps=half_spread_bps)
    same = {name: np.full((num_bars, 1), price) for name in ("open", "high", "low", "close")}
    return market._replace(**same, volume=np.full((num_bars, 1), volume), funding=np.zeros((num_bars, 1)))


@dataclass(frozen=True)
class World:
    """Names for the tests, since test files cannot import one another."""

    free: CostsConfig = FREE
    costly: CostsConfig = COSTLY
    wide: GuardrailsConfig = WIDE
    plain: SimulationConfig = PLAIN
    market: Callable[..., MarketArrays] = make_market
    flat: Callable[..., MarketArrays] = flat_market

    def run(
        self,
        market: MarketArrays,
        targets: Float64Array | list[list[float]],
        costs: CostsConfig = FREE,
        guard: GuardrailsConfig = WIDE,
        start: int = 0,
        **changes: Any,
    ) -> Ledger:
        """A backtest with a plain config, but for `changes`."""
        cfg, costs = self.bent(costs, **changes)
        return backtest(market, np.asarray(targets, dtype=np.float64), start, NS_PER_DAY, cfg, costs, guard)

    def bent(self, costs: CostsConfig, **changes: Any) -> tuple[SimulationConfig, CostsConfig]:
        """The plain config and these costs, but for `changes` of execution and of what the market lends."""
        lent = {name: changes.pop(name) for name in MarginConfig.__slots__ if name in changes}
        return replace(PLAIN, **changes), replace(costs, margin=replace(costs.margin, **lent))


def load_reference() -> ModuleType:
    """The slow engine beside this file."""
    spec = importlib.util.spec_from_file_location("simulation_reference", Path(__file__).with_name("reference.py"))
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The model in plain Python."""
    return load_reference()


@pytest.fixture(scope="session")
def world() -> World:
    """Everything a test of the simulator starts from."""
    return World()
