"""Spreads that nobody quotes: the estimators find the one that was planted, say so, and know nothing of what comes."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plusultra_core import config
from plusultra_core.market import MarketConfig
from plusultra_core.simulation.liquidity.spread import ESTIMATORS, Prices, abdi_ranaldo, build_quotes, by_volume, corwin_schultz, roll
from plusultra_core.simulation.market import market_arrays
from plusultra_core.simulation.records import PROXY_DEPTH, PROXY_ESTIMATE, PROXY_SPREAD

HALF = 0.004
SIGMA = 0.01


@pytest.fixture(scope="module")
def equity(root: Path) -> MarketConfig:
    return config.load(MarketConfig, root / "configs" / "markets" / "equity.yaml")


def bounced(num_bars: int, half: float, trades: int = 200, num_assets: int = 4, seed: int = 3) -> Prices:
    """Bars of trades that hit bid or ask at random around a random walk."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, SIGMA / math.sqrt(trades), (num_bars * trades, num_assets))
    log_trade = np.cumsum(steps, axis=0) + np.log1p(half) * rng.choice([-1.0, 1.0], steps.shape)
    bars = 100.0 * np.exp(log_trade.reshape(num_bars, trades, num_assets))
    return Prices(bars.max(axis=1), bars.min(axis=1), bars[:, -1])


def with_spread(market: MarketConfig, **changes: Any) -> MarketConfig:
    return replace(market, spread=replace(market.spread, **changes))


@pytest.mark.parametrize(("name", "tolerance"), [("roll", 0.25), ("corwin_schultz", 0.35), ("abdi_ranaldo", 0.15)])
def test_an_estimator_finds_the_spread_that_was_planted(name: str, tolerance: float) -> None:
    estimate = ESTIMATORS[name](bounced(1_500, HALF), 1_400)[-1]
    assert estimate.mean() == pytest.approx(HALF, rel=tolerance)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_a_wider_spread_is_seen_as_wider(name: str) -> None:
    found = [ESTIMATORS[name](bounced(800, half), 700)[-1].mean() for half in (0.0, 0.003, 0.006, 0.012)]
    assert found == sorted(found) and found[-1] > 2 * found[1]


def test_roll_is_the_formula_of_the_paper() -> None:
    prices = bounced(60, HALF, trades=20, num_assets=1)
    ret = np.diff(np.log(prices.close[:, 0]))
    pairs = np.stack((ret[1:], ret[:-1]))[:, -30:]
    cov = np.cov(pairs, bias=True)[0, 1]
    assert roll(prices, 30)[-1, 0] == pytest.approx(math.sqrt(max(-cov, 0.0)), rel=1e-9)


def test_corwin_and_schultz_are_the_formula_of_the_paper() -> None:
    prices = bounced(12, HALF, trades=20, num_assets=1)
    half = []
    for t in range(2, 12):
        high, low, last = float(prices.high[t, 0]), float(prices.low[t, 0]), float(prices.close[t - 1, 0])
        gap = max(low - last, 0.0) - max(last - high, 0.0)
        high, low = high - gap, low - gap
        before = float(prices.high[t - 1, 0]), float(prices.low[t - 1, 0])
        beta = math.log(high / low) ** 2 + math.log(before[0] / before[1]) ** 2
        gamma = math.log(max(high, before[0]) / min(low, before[1])) ** 2
        alpha = (math.sqrt(2 * beta) - math.sqrt(beta)) / (3 - 2 * math.sqrt(2)) - math.sqrt(gamma / (3 - 2 * math.sqrt(2)))
        half.append(max(2 * (math.exp(alpha) - 1) / (1 + math.exp(alpha)), 0.0) / 2)
    assert corwin_schultz(prices, 10)[-1, 0] == pytest.approx(np.mean(half), rel=1e-9)


def test_abdi_and_ranaldo_are_the_formula_of_the_paper() -> None:
    prices = bounced(12, HALF, trades=20, num_assets=1)
    close, middle = np.log(prices.close[:, 0]), 0.5 * np.log(prices.high[:, 0] * prices.low[:, 0])
    spread = 2 * math.sqrt(max(np.mean((close[1:-1] - middle[1:-1]) * (close[1:-1] - middle[2:])), 0.0))
    assert abdi_ranaldo(prices, 10)[-1, 0] == pytest.approx(spread / 2, rel=1e-9)


def test_less_volume_or_more_volatility_is_a_wider_spread() -> None:
    assert by_volume(np.array([0.01]), np.array([1e6]), 1e4)[0] == pytest.approx(0.001)
    assert by_volume(np.array([0.02]), np.array([1e6]), 1e4)[0] == pytest.approx(0.002)
    assert by_volume(np.array([0.01]), np.array([2.5e5]), 1e4)[0] == pytest.approx(0.002)


@pytest.mark.parametrize("name", [*ESTIMATORS, "adv"])
def test_no_estimate_knows_what_comes(name: str, equity: MarketConfig) -> None:
    now, later = bounced(120, HALF, trades=20), bounced(120, 3 * HALF, trades=20, seed=8)
    market = with_spread(equity, source="proxy", estimator=name, window_bars=20)
    ones = np.ones(now.close.shape)
    none = np.full(now.close.shape, np.nan)
    mixed = Prices(*(np.vstack((a[:80], b[80:])) for a, b in zip(now, later, strict=True)))
    one, two = (build_quotes(none, none, prices, 0.01 * ones, 1e7 * ones, market) for prices in (now, mixed))
    assert np.array_equal(one.half_spread_bps[:80], two.half_spread_bps[:80])


def test_a_quote_goes_before_an_estimate_and_that_before_the_config(equity: MarketConfig) -> None:
    prices = bounced(40, HALF, trades=20, num_assets=2)
    quoted, ones = np.full((40, 2), np.nan), np.ones((40, 2))
    quoted[10:, 0] = 7.0
    found = {
        source: build_quotes(quoted, quoted * 0 + 50.0, prices, ones * 0.01, ones * 1e7, with_spread(equity, source=source, window_bars=20))
        for source in ("data", "proxy", "config")
    }
    floor = equity.costs.half_spread_bps
    assert set(found["config"].half_spread_bps.flat) == {floor}
    assert found["data"].half_spread_bps[:, 0].tolist() == [floor] * 10 + [7.0] * 30
    assert found["data"].source[:, 0].tolist() == [PROXY_SPREAD | PROXY_DEPTH] * 10 + [0] * 30
    guessed = found["proxy"]
    assert guessed.source[0, 1] == PROXY_SPREAD | PROXY_DEPTH and guessed.source[-1, 1] == PROXY_ESTIMATE | PROXY_DEPTH
    assert guessed.half_spread_bps[-1, 0] == 7.0 and guessed.half_spread_bps[0, 1] == floor
    assert floor <= guessed.half_spread_bps.min() and guessed.half_spread_bps.max() <= equity.spread.cap_bps
    assert np.isinf(found["data"].depth[:10, 0]).all() and set(found["data"].depth[10:, 0]) == {50.0}


def test_estimates_and_quotes_beyond_what_is_sane_are_clipped(equity: MarketConfig) -> None:
    prices, ones = bounced(60, 0.2, trades=20, num_assets=1), np.ones((60, 1))
    market = with_spread(equity, source="proxy", window_bars=20)
    none = ones * np.nan
    assert build_quotes(none, none, prices, ones, ones, market).half_spread_bps[-1, 0] == equity.spread.cap_bps
    assert build_quotes(ones * 1e5, none, prices, ones, ones, market).half_spread_bps[-1, 0] == equity.spread.cap_bps


def test_between_bars_the_last_quote_stands(equity: MarketConfig) -> None:
    prices = bounced(10, HALF, trades=20, num_assets=1)
    quoted, here = np.full((10, 1), 7.0), np.ones((10, 1), bool)
    quoted[4], here[5:7] = 9.0, False
    gone = Prices(*(np.where(here, x, np.nan) for x in prices))
    found = build_quotes(np.where(here, quoted, np.nan), np.where(here, 30.0, np.nan), gone, quoted, quoted, equity)
    assert found.half_spread_bps[:, 0].tolist() == [7.0] * 4 + [9.0] * 3 + [7.0] * 3
    assert set(found.depth.flat) == {30.0} and not found.source.any()


def test_an_order_carries_where_the_spread_it_met_came_from(equity: MarketConfig, world: Any) -> None:
    prices = bounced(6, HALF, trades=20, num_assets=1)
    bars = {"open": prices.close.T, "high": prices.high.T, "low": prices.low.T, "close": prices.close.T}
    bars |= {"volume": np.full((1, 6), 1e6), "funding": np.zeros((1, 6))}
    bars["half_spread_bps"], bars["depth"] = np.array([[3.0, np.nan, 3.0, 3.0, 3.0, 3.0]]), np.full((1, 6), 100.0)
    ts_ns = (np.arange(6) + 1) * 86_400 * 10**9
    market = market_arrays(ts_ns, bars, np.full((1, 6), 0.01), np.ones((1, 6), bool), equity, 3, 0.01)
    ledger = world.run(market, [[0.5], [-0.5], [np.nan]], participation=0.1)
    orders = ledger.orders()
    assert orders["proxy"].tolist() == [0, PROXY_SPREAD]
    assert orders["qty_filled"].tolist() == [100.0, 100.0]
    assert orders["spread"] == pytest.approx(100 * market.open[1:3, 0] * np.array([3e-4, 1e-4]))
