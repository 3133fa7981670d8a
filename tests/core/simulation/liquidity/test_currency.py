"""Assets quoted abroad: what is bought is exchanged, results are the account's, and price and currency have each their part."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ContractError
from plusultra_core.market import MarketConfig
from plusultra_core.simulation.ledger import PARTS, Ledger
from plusultra_core.simulation.market import check_market, market_arrays, with_terms
from plusultra_core.simulation.records import COSTS, MarketArrays

T, N = 40, 3


@pytest.fixture(scope="module")
def shares(root: Path) -> MarketConfig:
    return config.load(MarketConfig, root / "configs" / "markets" / "equity.yaml")


@pytest.fixture(scope="module")
def pairs(root: Path) -> MarketConfig:
    return config.load(MarketConfig, root / "configs" / "markets" / "forex.yaml")


def abroad(market: MarketConfig, seed: int, gaps: float = 0.0) -> tuple[MarketArrays, dict[str, Any]]:
    """Three assets, the first quoted in the account's currency, the others abroad; and the bars that they are made of."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.02, (N, T)), axis=1))
    first = close * np.exp(rng.normal(0, 0.01, (N, T)))
    bars = {"open": first, "high": np.maximum(first, close) * 1.01, "low": np.minimum(first, close) * 0.99, "close": close}
    bars |= {"volume": np.full((N, T), 1e9), "funding": np.zeros((N, T))}
    bars["fx"] = 1.3 * np.exp(np.cumsum(rng.normal(0, 0.01, (N, T)), axis=1))
    bars["fx"][0] = 1.0
    here = rng.random((N, T)) >= gaps
    here[:, 0] = True
    made = market_arrays(NS_PER_DAY * np.arange(T), bars, np.full((N, T), 0.02), here, market, 5, 0.02)
    check_market(made)
    return made, bars | {"here": here}


def identity(ledger: Ledger) -> None:
    assert np.abs(ledger.residual()).max() < 1e-9
    account, positions = ledger.account(), ledger.positions()
    for name in ("price_pnl", *COSTS, *PARTS):
        assert positions[name].sum() == pytest.approx(account[name].sum(), rel=1e-9, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), gaps=st.sampled_from([0.0, 0.3]), settled=st.sampled_from(["cash", "margin"]))
def test_equity_is_what_prices_rates_and_costs_made_of_it(world: Any, shares: MarketConfig, seed: int, gaps: float, settled: str) -> None:
    market, _ = abroad(replace(shares, exchange=replace(shares.exchange, settlement=settled)), seed, gaps)
    targets = np.random.default_rng(seed).uniform(-0.5, 0.5, (T - 1, N))
    ledger = world.run(market, targets, costs=world.costly, latency_ms=(0.0, 4e7), latency_prob=(0.5, 0.5), time_in_force="gtc")
    identity(ledger)
    assert (ledger.currency_pnl[:, 0] == 0).all() and (ledger.conversion[:, 0] == 0).all()


def test_a_foreign_share_gains_with_its_price_and_with_its_currency(world: Any, shares: MarketConfig) -> None:
    market, bars = abroad(shares, 1)
    targets = np.full((T - 1, N), np.nan)
    targets[0] = 0.0, 0.4, 0.0
    ledger = world.run(market, targets)
    quantity, close, rate = ledger.steps.fill[0, 1], bars["close"][1], bars["fx"][1]
    held = ledger.steps.position[:, 1]
    assert set(held) == {quantity}
    account = ledger.account()
    local = quantity * np.diff(close) * rate[1:]
    assert ledger.currency_pnl[:, 1] == pytest.approx(quantity * close[:-1] * np.diff(rate))
    assert (account["price_pnl"] - account["currency_pnl"])[1:] == pytest.approx(local)
    paid = quantity * bars["open"][1, 1] * rate[0] * (1 + 3e-4)  # a point of half spread, two for the exchange
    assert ledger.cash[1] == pytest.approx(1e6 - paid)
    assert ledger.equity[-1] == pytest.approx(1e6 - paid + quantity * close[-1] * rate[-1])
    assert account["conversion"][1] == pytest.approx(quantity * bars["open"][1, 1] * rate[0] * 2e-4)
    assert account["spread"][1] == pytest.approx(1.5 * account["conversion"][1])


def test_of_a_pair_in_another_currency_only_the_result_is_exchanged(world: Any, pairs: MarketConfig) -> None:
    market, bars = abroad(pairs, 2)
    targets = np.full((T - 1, N), np.nan)
    targets[0] = 0.0, 0.0, -0.4
    ledger = world.run(market, targets)
    quantity, close, rate = ledger.steps.fill[0, 2], bars["close"][2], bars["fx"][2]
    assert quantity < 0
    assert ledger.steps.price_pnl[1:, 2] == pytest.approx(quantity * np.diff(close)[1:] * rate[2:])
    assert not ledger.currency_pnl.any() and not ledger.conversion.any() and not ledger.steps.funding.any()
    assert ledger.steps.latency_drift[0, 2] == pytest.approx(quantity * (bars["open"][2, 1] - close[0]) * rate[1])
    gained = quantity * ((close[1] - bars["open"][2, 1]) * rate[1] + (np.diff(close)[1:] * rate[2:]).sum())
    assert ledger.equity[-1] == pytest.approx(1e6 + gained - ledger.steps.spread.sum(), rel=1e-12)


def test_a_rate_that_stands_still_changes_nothing_but_the_unit(world: Any, shares: MarketConfig) -> None:
    market, bars = abroad(shares, 3)
    still = {name: bars[name] for name in ("open", "high", "low", "close", "volume", "funding")}
    made = {
        rate: market_arrays(
            market.ts_ns, {**still, "fx": np.full((N, T), rate)}, np.full((N, T), 0.02), np.ones((N, T), bool), shares, 5, 0.02
        )
        for rate in (1.0, 0.01)
    }
    targets = np.random.default_rng(3).uniform(-0.5, 0.5, (T - 1, N))
    pounds, pence = (world.run(made[rate], targets) for rate in (1.0, 0.01))
    assert np.allclose(pence.equity, pounds.equity, rtol=1e-12)
    assert np.allclose(pence.steps.position, 100 * pounds.steps.position)
    assert not pence.conversion.any()


def test_amounts_are_in_the_money_of_the_account(shares: MarketConfig) -> None:
    market, bars = abroad(shares, 4)
    assert np.allclose(market.close.T, bars["close"] * bars["fx"], rtol=1e-12)
    notional = (bars["close"] * bars["fx"] * bars["volume"])[:, 5:10].mean(axis=1)
    assert market.adv_ccy[9] == pytest.approx(notional)
    assert (market.low <= market.close).all() and (market.close <= market.high).all()
    assert (market.low <= market.open).all() and (market.open <= market.high).all()


def test_without_a_rate_there_is_no_trade(shares: MarketConfig) -> None:
    _, bars = abroad(shares, 5)
    bars["fx"][1, 7] = np.nan
    made = market_arrays(NS_PER_DAY * np.arange(T), bars, np.full((N, T), 0.02), bars.pop("here"), shares, 5, 0.02)
    assert not made.tradable[7, 1] and np.isnan(made.close[7, 1]) and made.tradable[7, 0]
    assert made.translation[8, 1] == pytest.approx(bars["close"][1, 6] * (bars["fx"][1, 8] - bars["fx"][1, 6]))


def test_each_currency_has_its_row_and_they_sum_to_the_account(world: Any, shares: MarketConfig) -> None:
    market, _ = abroad(shares, 6)
    ledger = world.run(market, np.random.default_rng(6).uniform(-0.5, 0.5, (T - 1, N)), costs=world.costly)
    rows = ledger.currencies(("USD", "EUR", "EUR"))
    account = ledger.account()
    assert set(rows["currency"]) == {"USD", "EUR"}
    for name, whole in (("net", account["net"]), ("gross", account["gross"]), ("currency_pnl", account["currency_pnl"])):
        sums = [rows[name][rows["ts_ns"] == ts_ns].sum() for ts_ns in ledger.ts_ns[1:]]
        assert sums == pytest.approx(whole[1:].tolist())
    assert rows["local_pnl"].sum() + rows["currency_pnl"].sum() == pytest.approx(account["price_pnl"].sum())
    assert not rows["conversion"][rows["currency"] == "USD"].any() and rows["conversion"].sum() > 0


@pytest.mark.parametrize("settled", ["cash", "margin"])
def test_no_row_knows_a_later_rate(shares: MarketConfig, settled: str) -> None:
    cfg = replace(shares, exchange=replace(shares.exchange, settlement=settled))
    one, bars = abroad(cfg, 7, gaps=0.2)
    here = bars.pop("here")
    bars["fx"][1:, 20:] *= 3.0
    two = market_arrays(one.ts_ns, bars, np.full((N, T), 0.02), here, cfg, 5, 0.02)
    for name in MarketArrays._fields:
        a, b = getattr(one, name), getattr(two, name)
        assert np.array_equal(a[:20] if a.shape[:1] == (T,) else a, b[:20] if b.shape[:1] == (T,) else b, equal_nan=a.dtype == float), name


@pytest.mark.parametrize(("settled", "cost_bps"), [("cash", 2.0), ("margin", 0.0)])
def test_a_market_rate_that_stands_at_parity_for_a_while_is_exchanged_at_a_cost(
    shares: MarketConfig, settled: str, cost_bps: float
) -> None:
    _, bars = abroad(shares, 5)
    bars["fx"][1, :3] = 1.0
    bars["fx"][2, :3] = 0.01
    own = replace(shares, exchange=replace(shares.exchange, settlement=settled))
    made = market_arrays(NS_PER_DAY * np.arange(T), bars, np.full((N, T), 0.02), bars.pop("here"), own, 5, 0.02)
    assert made.conversion_bps.tolist() == [0.0, cost_bps, cost_bps]


def test_an_order_that_waits_through_a_halt_is_exchanged_at_no_rate_of_before_it(world: Any, shares: MarketConfig) -> None:
    here = np.ones((2, 12), bool)
    here[0, 3:8] = False
    bars = {name: np.full((2, 12), 100.0) for name in ("open", "high", "low", "close")}
    bars |= {"volume": np.full((2, 12), 1e9), "funding": np.zeros((2, 12)), "fx": np.where(np.arange(12) < 5, 1.2, 1.32) * np.ones((2, 1))}
    market = market_arrays(NS_PER_DAY * np.arange(12), bars, np.full((2, 12), 0.02), here, shares, 5, 0.02)
    targets = np.full((11, 2), np.nan)
    targets[2, 0] = 0.5
    ledger = world.run(market, targets, time_in_force="gtc")
    assert ledger.steps.fill[7, 0] > 0
    assert ledger.equity[-1] == pytest.approx(1e6 - ledger.steps.spread.sum())


def test_a_tick_of_a_share_abroad_is_not_taken_for_money_of_the_account(shares: MarketConfig) -> None:
    market, _ = abroad(shares, 8)
    one = np.ones(N)
    assert with_terms(market, one, np.array([0.01, 0.0, 0.0]), one).tick.tolist() == [0.01, 0.0, 0.0]
    with pytest.raises(ContractError, match=r"market\.tick: 2 assets"):
        with_terms(market, one, np.full(N, 0.01), one)
