"""What a market lends: a cash account owes nothing, sells nothing that it does not hold, and is closed by no price."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.guardrails.limits import MAX_GROSS, NOT_FINITE
from plusultra_core.guardrails.margin import within_margin, without_shorts
from plusultra_core.inference.strategies import Setting, buy_and_hold, run_strategy, unguarded
from plusultra_core.market import MarginConfig, MarketConfig
from plusultra_core.simulation.engine import Environment, SimulationConfig, build_rules
from plusultra_core.simulation.market import market_arrays
from plusultra_core.simulation.records import CAPITAL
from plusultra_core.simulation.twin.engine import TensorEnvironment

NAN = np.nan
CASH = {
    "account": "cash", "max_leverage": 1.0, "maintenance_margin": 0.0, "liquidation_penalty_bps": 0.0, "shorts": False,
    "reserve_frac": 0.02,
}  # fmt: skip
LENT = {"max_leverage": 2.0, "maintenance_margin": 0.1}


@pytest.fixture(scope="module")
def crypto(root: Path) -> MarketConfig:
    return config.load(MarketConfig, root / "configs" / "markets" / "crypto.yaml")


def wick(world: Any, low: float = 0.06) -> Any:
    """A coin at 100 whose open after the decision is 3 % higher, and that prints nearly nothing in bar 5."""
    market = world.flat(9, half_spread_bps=2.0)
    opened, deep = market.open.copy(), market.low.copy()
    opened[1], deep[5] = 103.0, low
    return market._replace(open=opened, high=np.maximum(market.high, opened), low=deep)


@pytest.mark.parametrize("num_slots", [1, 3])
def test_a_cash_account_is_not_closed_by_a_wick_to_nearly_nothing_and_a_margined_one_is(world: Any, num_slots: int) -> None:
    market = wick(world)
    targets = [[1.0] * num_slots, *[[NAN] * num_slots] * 7]
    targets[0] = [1.0 / num_slots] * num_slots
    by_time = ("ts_ns", "session_end")
    whole = type(market)(*(x if name in by_time else np.repeat(x, num_slots, axis=-1) for name, x in market._asdict().items()))
    costs = replace(world.free, fee_bps=10.0)
    held, called = (world.run(whole, targets, costs, **terms) for terms in (CASH, LENT))
    assert not held.liquidated
    assert held.cash.min() > -1e-6
    assert held.equity[-1] == pytest.approx(0.97e6, rel=0.01)  # what the open cost
    assert called.liquidated
    assert called.cash[3] < 0.0  # it was lent the rise of the open


@given(
    seed=st.integers(0, 10_000),
    num_slots=st.sampled_from([1, 4]),
    force=st.sampled_from(["bar", "gtc"]),
    gap=st.sampled_from([0.9, 1.0, 1.1]),
    late=st.sampled_from([(0.0,), (7.2e7,)]),
    impact=st.sampled_from([0.05, 5.0]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_order_of_a_cash_account_leaves_a_debt_whatever_the_open(
    world: Any, seed: int, num_slots: int, force: str, gap: float, late: tuple[float, ...], impact: float
) -> None:
    market = world.market(40, num_slots, seed=seed, gaps=0.1, half_spread_bps=4.0)
    opened = market.open * gap
    market = market._replace(open=opened, high=np.fmax(market.high, opened), low=np.fmin(np.fmin(market.low, opened), 0.5))
    rng = np.random.default_rng(seed)
    targets = np.where(rng.random((39, num_slots)) < 0.5, rng.uniform(-1.0, 1.5, (39, num_slots)), NAN)
    costs = replace(world.costly, borrow_bps_year=0.0, funding=False, impact_coef=impact)
    ledger = world.run(market, targets, costs, time_in_force=force, latency_ms=late, **CASH)
    assert not ledger.liquidated
    assert ledger.cash.min() > -1e-6
    assert ledger.equity.min() > 0.0
    assert ledger.steps.position.min() >= -1e-9
    assert (ledger.steps.fill != 0.0).any()


def test_fills_of_a_cash_account_stop_where_their_costs_take_its_last_money(world: Any) -> None:
    ledger = world.run(wick(world, 99.0), [[1.0], *[[NAN]] * 7], replace(world.free, fee_bps=10.0), **CASH)
    assert ledger.steps.guard[0, 0] == MAX_GROSS  # asked for .98 of the equity, at a close of 100
    assert ledger.steps.reason[0, 0] == CAPITAL  # the open of 103 would take 1.009
    assert ledger.steps.fill[0, 0] * 103.0 == pytest.approx(1e6 / (1.0002 * 1.001))
    assert ledger.cash[1] == pytest.approx(0.0, abs=1e-6)


def test_what_is_not_held_is_not_sold_where_nothing_is_lent(world: Any) -> None:
    market = world.market(12, 2, seed=3)
    wished = [[-0.5, 0.4], [NAN, -0.2], *[[-1.0, -1.0]] * 9]
    cash = world.run(market, wished, **CASH)
    assert cash.steps.position.min() >= -1e-9
    assert cash.steps.position.max() > 0.0
    assert abs(cash.steps.position[-1]).max() < 1e-9
    lent = world.run(market, wished, **LENT)
    assert lent.steps.position.min() < -1.0


def test_a_request_without_end_sells_nothing_in_cash_either(world: Any) -> None:
    market = world.market(8, 1, seed=3)
    ledger = world.run(market, [[0.5], [-np.inf], *[[NAN]] * 5], **CASH)
    assert ledger.steps.guard[1, 0] == NOT_FINITE
    assert not ledger.steps.fill[2:].any()
    assert ledger.steps.position[-1, 0] > 0.0
    cfg, costs = world.bent(world.free, **CASH)
    tensors = TensorEnvironment(market, NS_PER_DAY, cfg, costs, world.wide, dtype=torch.float64)
    tensors.reset(np.zeros(1, np.int64), np.zeros((1, 1), np.int64), np.zeros(1, np.int64))
    for asked in (0.5, -np.inf, NAN):
        tensors.step(torch.tensor([[asked]], dtype=torch.float64))
    assert float(tensors.accounts.held[0, 0]) == pytest.approx(float(ledger.steps.position[2, 0]))


def test_the_twin_and_what_is_carried_without_a_ledger_know_the_same_market(world: Any) -> None:
    market = wick(world)
    cfg, costs = world.bent(replace(world.free, fee_bps=10.0), **CASH)
    env, silent = (Environment(market, 3, 1, NS_PER_DAY, cfg, costs, world.wide) for _ in range(2))
    tensors = TensorEnvironment(market, NS_PER_DAY, cfg, costs, world.wide, dtype=torch.float64)
    zero = np.zeros(3, np.int64)
    for made in (env, silent):
        made.reset(np.arange(3), zero, zero[:, None], np.arange(3))
    tensors.reset(zero, zero[:, None], np.arange(3))
    for t in range(8):
        request = np.array([[1.0], [-1.0], [NAN]]) if t < 7 else np.full((3, 1), -0.5)
        env.step(request)
        silent.advance(request)
        tensors.step(torch.from_numpy(request))
        assert np.array_equal(env.accounts.cash_E, silent.accounts.cash_E)
        assert tensors.accounts.cash.tolist() == pytest.approx(env.accounts.cash_E.tolist(), rel=1e-12)
    assert not env.accounts.done_E.any()
    assert env.accounts.position_EA.tolist() == [[0.0]] * 3


def test_the_rulebook_of_a_market_leaves_the_reserve_and_no_short(world: Any, crypto: MarketConfig) -> None:
    cash, lent = crypto.costs.margin, MarginConfig(**{**CASH, **LENT, "account": "margin", "shorts": True, "reserve_frac": 0.0})
    assert within_margin(world.wide, cash).max_gross == pytest.approx(1.0 - cash.reserve_frac)
    assert within_margin(replace(world.wide, max_gross=0.5), cash).max_gross == 0.5
    assert within_margin(world.wide, lent) == world.wide
    asked = np.array([[-0.2, NAN, 0.3]])
    assert np.array_equal(without_shorts(asked, cash), [[0.0, NAN, 0.3]], equal_nan=True)
    assert without_shorts(asked, lent) is asked
    rules = build_rules(world.plain, replace(world.free, margin=cash), NS_PER_DAY)
    assert rules.maintenance_margin == -np.inf


@pytest.fixture(scope="module")
def coin(real_dump: Callable[[str], Path], crypto: MarketConfig) -> Any:
    """Every bar of BTC-USD of a real dump."""
    with closing(sqlite3.connect(f"file:{real_dump('market_2017_a')}?mode=ro", uri=True)) as base:
        rows = base.execute(
            "select open, high, low, close, volume from series where symbol = 'BTC-USD' order by timestamp"
        ).fetchall()  # fmt: skip
    values = np.array(rows, dtype=np.float64).T[:, None, :]
    bars = dict(zip(("open", "high", "low", "close", "volume"), values, strict=True))
    bars["low"] = np.minimum(bars["low"], np.minimum(bars["open"], bars["close"]))
    bars["high"] = np.maximum(bars["high"], np.maximum(bars["open"], bars["close"]))
    ts_ns = (1 + np.arange(values.shape[2], dtype=np.int64)) * NS_PER_DAY
    bars["funding"] = np.full(values.shape[1:], NAN)
    return market_arrays(ts_ns, bars, np.full(values.shape[1:], 0.03), np.ones(values.shape[1:], np.bool_), crypto, 20, 0.03)


def test_who_buys_a_coin_and_holds_it_keeps_it_through_a_print_of_six_cents(
    root: Path, world: Any, crypto: MarketConfig, coin: Any
) -> None:
    stray = int(coin.low[:, 0].argmin())
    assert coin.low[stray, 0] == 0.06
    cfg = config.load(SimulationConfig, root / "configs" / "smoke" / "simulation.yaml")
    calm = unguarded(Setting(coin, NS_PER_DAY, cfg, crypto.costs, world.wide))
    for start in (stray - 120, stray - 40, stray - 2):
        span = (start, stray + 60)
        ledger = run_strategy(calm, span, buy_and_hold(calm, span))
        assert not ledger.liquidated
        assert ledger.cash.min() > 0.0
        assert ledger.equity.min() > 0.0  # what the transitions of offline learning need
        bought = coin.open[start + 1, 0] if ledger.steps.fill[0, 0] else coin.open[start + 2, 0]
        assert ledger.equity[-1] / 1e6 == pytest.approx(1.0 + 0.98 * (coin.close[stray + 59, 0] / bought - 1.0), abs=0.05)
