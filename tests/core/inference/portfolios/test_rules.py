"""Equal weight and mean-variance in the one kernel: what they hold, when they trade, what they cannot see."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plusultra_core.clock import NS_PER_YEAR
from plusultra_core.errors import ConfigError
from plusultra_core.inference.portfolios.covariance import shrunk_covariance
from plusultra_core.inference.portfolios.rules import (
    EqualWeightConfig,
    MeanVarianceConfig,
    best_trade,
    equal_weight,
    log_moves,
    mean_variance,
    of_assets,
    price,
    since_listed,
)
from plusultra_core.inference.strategies import Decide, book_of, buy_and_hold, run_strategy, unguarded
from plusultra_core.inference.trace import Stage, open_stage, traded_horizon
from plusultra_core.job import Job
from plusultra_core.simulation.engine import open_account
from plusultra_core.simulation.ledger import Ledger

OWN = MeanVarianceConfig(risk_aversion=5.0, lookback_bars=40, cost_factor=1.0, band=0.0)


@pytest.fixture(scope="module")
def stage(chain: Any) -> Stage:
    return open_stage(Job("trace", "x", chain.settings(), chain.paths, chain.base, chain.base, {}))


def best(stage: Stage, cfg: MeanVarianceConfig = OWN, quantiles: Any = None) -> Decide:
    values = stage.quantiles["hybrid"] if quantiles is None else quantiles
    return mean_variance(values, stage.first, traded_horizon(stage), stage.setting.market, stage.setting.guard, cfg)


def whole_of(stage: Stage) -> tuple[int, int]:
    """All test bars: 44, with one asset halted for three of them."""
    return stage.first, stage.locked[1]


def run(stage: Stage, decide: Decide) -> Ledger:
    return run_strategy(stage.setting, whole_of(stage), decide)


def weights(ledger: Ledger) -> np.ndarray:
    steps = ledger.steps
    return steps.position * np.nan_to_num(steps.mark) / ledger.equity[1:, None]


def louder(stage: Stage, factor: float) -> np.ndarray:
    """The same forecasts with medians that many times as large: an untrained model promises next to nothing."""
    values = stage.quantiles["hybrid"]
    return values + (factor - 1.0) * values[:, :, 3:4]


def test_equal_weight_holds_equal_parts_and_brings_them_back_on_its_days(stage: Stage) -> None:
    calm, span = unguarded(stage.setting), whole_of(stage)
    cfg = EqualWeightConfig(rebalance_bars=10, band=0.0)
    ledger = run_strategy(calm, span, equal_weight(span[0], cfg))
    num_assets = stage.setting.market.close.shape[1]
    asked = np.isfinite(ledger.steps.request)
    assert np.flatnonzero(asked.any(axis=1)).tolist() == list(range(0, span[1] - span[0] - 1, 10))
    assert weights(ledger)[0] == pytest.approx(np.full(num_assets, 1 / num_assets), rel=0.05)
    drifted = run_strategy(calm, span, buy_and_hold(stage.setting, span))
    after = 31  # a bar after a rebalancing
    off = [np.abs(weights(one)[after - 1] - 1 / num_assets).max() for one in (ledger, drifted)]
    assert off[0] < off[1]
    assert ledger.account()["turnover"].sum() > drifted.account()["turnover"].sum()


def test_equal_weight_asks_nothing_of_what_does_not_trade_and_nothing_within_its_band(stage: Stage) -> None:
    calm, span = unguarded(stage.setting), whole_of(stage)
    often = run_strategy(calm, span, equal_weight(span[0], EqualWeightConfig(rebalance_bars=1, band=0.0)))
    halted = ~stage.setting.market.tradable[span[0] : span[1] - 1]
    assert halted.any() and not np.isfinite(often.steps.request[halted]).any()
    lazy = run_strategy(calm, span, equal_weight(span[0], EqualWeightConfig(rebalance_bars=1, band=0.5)))
    assert (lazy.steps.fill != 0).sum() < 0.2 * (often.steps.fill != 0).sum()


def test_a_holiday_of_most_does_not_put_everything_into_the_few_that_trade(stage: Stage) -> None:
    calm, span = unguarded(stage.setting), whole_of(stage)
    market, num_assets = calm.market, calm.market.close.shape[1]
    shut = np.zeros_like(market.tradable)
    shut[span[0], 1:] = True
    prices = {name: np.where(shut, np.nan, getattr(market, name)) for name in ("open", "high", "low", "close")}
    holiday = market._replace(**prices, tradable=market.tradable & ~shut, volume=np.where(shut, 0.0, market.volume))
    ledger = run_strategy(calm._replace(market=holiday), span, equal_weight(span[0], EqualWeightConfig(rebalance_bars=10, band=0.0)))
    asked = ledger.steps.request[:10]
    assert np.isfinite(asked[0]).tolist() == [True] + [False] * (num_assets - 1)
    assert np.isfinite(asked[1]).tolist() == [False] + [True] * (num_assets - 1)
    assert not np.isfinite(asked[2:]).any()
    assert weights(ledger)[1] == pytest.approx(np.full(num_assets, 1 / num_assets), rel=0.05)


def test_mean_variance_stays_within_its_limits_and_trades(stage: Stage) -> None:
    guard = stage.setting.guard
    asked = run(stage, best(stage, quantiles=louder(stage, 200.0))).steps.request
    assert np.nanmax(np.abs(asked)) <= guard.max_weight + 1e-12
    assert np.nanmax(np.abs(asked)) > 0.9 * guard.max_weight
    whole = asked[np.isfinite(asked).all(axis=1)]
    assert whole.size and np.abs(whole).sum(axis=1).max() <= guard.max_gross + 1e-9


def test_the_dearer_risk_or_trading_is_the_less_is_held_and_traded(stage: Stage) -> None:
    loud, own = louder(stage, 20.0), replace(OWN, risk_aversion=50.0)
    plain, averse, dear = (
        run(stage, best(stage, cfg, loud)) for cfg in (own, replace(own, risk_aversion=1000.0), replace(own, cost_factor=20.0))
    )
    held = [np.abs(weights(one)).sum(axis=1).mean() for one in (plain, averse)]
    assert held[1] < 0.6 * held[0]
    traded = [one.account()["turnover"].sum() for one in (plain, dear)]
    assert 0 < traded[1] < 0.7 * traded[0]


def test_where_no_forecast_pays_for_its_trade_nothing_is_traded(stage: Stage) -> None:
    assert not run(stage, best(stage, replace(OWN, cost_factor=1e4))).steps.fill.any()


def test_two_assets_that_move_together_share_what_one_alone_would_get(stage: Stage) -> None:
    """The second asset's prices become the first's: held together they are one risk."""
    market = stage.setting.market
    close = market.close.copy()
    close[:, 1] = close[:, 0]
    values, own = louder(stage, 20.0), replace(OWN, cost_factor=0.0, risk_aversion=500.0)
    values[:, 1] = values[:, 0]
    sizes = []
    for seen in (market._replace(close=close), market):
        decide = mean_variance(values, stage.first, traded_horizon(stage), seen, stage.setting.guard, own)
        asked = run(stage, decide).steps.request
        sizes.append(np.nanmean(np.abs(asked[:, :2])))
    assert sizes[0] < 0.85 * sizes[1]


@pytest.mark.parametrize("risk_aversion", [1.0, 5.0])
def test_prices_whose_mean_stays_are_not_held_though_their_median_falls(stage: Stage, risk_aversion: float) -> None:
    """What is held earns simple returns, not logarithms: those of a price that goes nowhere fall."""
    setting, bars, sigma = stage.setting, 5, np.array([0.01, 0.03, 0.06])
    env = open_account(setting.market, stage.first, setting.bar_ns, setting.simulation, setting.costs, setting.guard)
    book = of_assets(book_of(stage.first, env, bars), np.array([True, True, True, False]))
    book = book._replace(sigma_A=sigma, weight_A=np.zeros(3), rules=book.rules._replace(borrow_frac_year=0.0), shorts=True)
    free, guard = replace(OWN, cost_factor=0.0, risk_aversion=risk_aversion), replace(setting.guard, max_weight=1.0, max_gross=3.0)
    still = -0.5 * sigma * np.sqrt(bars)
    assert best_trade(still, sigma**2, np.diag(sigma**2), book, guard, 0.0, free) == pytest.approx(np.zeros(3), abs=1e-9)
    gain = np.array([0.0001, 0.002, -0.004])
    wish = best_trade(still + np.log1p(gain) / (sigma * np.sqrt(bars)), sigma**2, np.diag(sigma**2), book, guard, 0.0, free)
    assert wish == pytest.approx(gain / (risk_aversion * bars * sigma**2), rel=1e-6)


@pytest.mark.parametrize("equity_ccy", [1e6, 1e8, 1e10])
def test_no_smaller_or_larger_order_is_worth_more_however_large_the_account(stage: Stage, equity_ccy: float) -> None:
    """Halving the costs of all orders at once missed it where they move together: beyond 1e7 the trade lost by its own forecast."""
    setting, bars = stage.setting, 5
    rng = np.random.default_rng(2)
    sigma, mix = np.array([0.01, 0.02, 0.03]), rng.normal(size=(3, 3)) + 1.0
    covariance = mix @ mix.T / np.sqrt(np.outer(np.diag(mix @ mix.T), np.diag(mix @ mix.T))) * np.outer(sigma, sigma)
    env = open_account(setting.market, stage.first, setting.bar_ns, setting.simulation, setting.costs, setting.guard)
    book = of_assets(book_of(stage.first, env, bars), np.array([True, True, True, False]))
    rules = book.rules._replace(impact_coef=1.0, fee_min_ccy=0.0, participation=1.0)
    book = book._replace(sigma_A=sigma, adv_A=np.array([1e8, 3e8, 1e9]), weight_A=np.zeros(3), equity_ccy=equity_ccy, rules=rules)
    book, median = book._replace(half_spread_bps_A=np.full(3, 1.0)), np.array([0.1, -0.15, 0.08])
    guard = replace(setting.guard, max_weight=0.4, max_gross=9.0)

    def worth(weight: np.ndarray) -> float:
        """By the forecast, of an order that pays its impact as it grows."""
        gain = np.expm1(median * sigma * np.sqrt(bars) + 0.5 * bars * np.diag(covariance))
        size = np.abs(weight)
        paid = (price(np.minimum(size * equity_ccy, book.adv_A), book, rules) * size).sum()
        loan = rules.borrow_frac_year * bars * rules.bar_ns / NS_PER_YEAR * np.maximum(-weight, 0.0).sum()
        return float(gain @ weight - 0.5 * OWN.risk_aversion * bars * weight @ covariance @ weight - OWN.cost_factor * paid - loan)

    best = best_trade(median, sigma**2, covariance, book, guard, 0.0, OWN)
    assert best.any() and worth(best) > 0.0
    for weight in np.concatenate((best * rng.uniform(0.0, 3.0, (200, 3)), best + rng.normal(0.0, 0.01, (200, 3)))):
        assert worth(np.clip(weight, -0.4, 0.4)) <= worth(best) + 1e-12


def test_a_calm_asset_does_not_gain_by_the_variance_that_wild_ones_lend_it(stage: Stage) -> None:
    """Shrinking pulls all variances to one: as a risk it is caution, as a gain it would be money from nowhere."""
    rng = np.random.default_rng(4)
    moves = rng.normal(size=(120, 3)) * np.array([0.0005, 0.05, 0.05])
    covariance, _ = shrunk_covariance(moves)
    assert covariance[0, 0] > 20.0 * moves[:, 0].var()
    setting = stage.setting
    env = open_account(setting.market, stage.first, setting.bar_ns, setting.simulation, setting.costs, setting.guard)
    book = of_assets(book_of(stage.first, env, 5), np.array([True, True, True, False]))
    rules = book.rules._replace(borrow_frac_year=0.0)
    book = book._replace(sigma_A=moves.std(axis=0), weight_A=np.zeros(3), rules=rules, shorts=True)
    free = replace(OWN, cost_factor=0.0, risk_aversion=1.0)
    guard = replace(stage.setting.guard, max_weight=1.0, max_gross=3.0)
    calm = best_trade(np.zeros(3), moves.var(axis=0), covariance, book, guard, 0.0, free)
    assert 0.0 < calm[0] < 0.05  # half of its own variance over what it is charged; with what was lent it would be a half
    assert np.abs(calm[1:] - 0.5).max() < 0.25


def test_what_comes_later_does_not_reach_back(stage: Stage) -> None:
    cut = stage.first + 9
    market, values = stage.setting.market, louder(stage, 50.0)
    later, close = values.copy(), market.close.copy()
    later[cut - stage.first :] *= -1.0
    close[cut:] *= np.random.default_rng(0).uniform(0.5, 2.0, close[cut:].shape)
    other = mean_variance(
        later, stage.first, traded_horizon(stage), market._replace(close=close), stage.setting.guard, OWN
    )  # fmt: skip
    a, b = run(stage, best(stage, quantiles=values)), run(stage, other)
    assert np.array_equal(a.steps.request[:9], b.steps.request[:9], equal_nan=True)
    assert not np.array_equal(a.steps.request[9:], b.steps.request[9:], equal_nan=True)


def test_an_asset_of_which_too_little_is_known_is_left_alone(stage: Stage) -> None:
    market, cut = stage.setting.market, stage.first - 5
    close = market.close.copy()
    close[:cut, 2] = np.nan
    decide = mean_variance(
        louder(stage, 50.0), stage.first, traded_horizon(stage), market._replace(close=close), stage.setting.guard, OWN
    )  # fmt: skip
    asked = run(stage, decide).steps.request
    assert not np.isfinite(asked[:15, 2]).any() and np.isfinite(asked[:10, 0]).any() and np.isfinite(asked[20:, 2]).any()


def test_a_young_asset_has_the_variance_of_its_own_bars_and_a_halt_changes_none() -> None:
    rng = np.random.default_rng(0)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, (4_001, 3)), axis=0))
    young, halted = close.copy(), close.copy()
    young[:1_801, 0] = np.nan
    halted[1_000:1_100, 1] = np.nan

    def variance(values: np.ndarray) -> np.ndarray:
        class Bars:
            close, translation, margined = values, np.zeros_like(values), np.zeros(3, np.bool_)

        moves, seen = log_moves(Bars())  # type: ignore[arg-type]
        return np.diag(shrunk_covariance(since_listed(moves[1:], seen[1:]))[0])

    whole = variance(close)
    assert whole == pytest.approx(np.full(3, 1e-4), rel=0.1)
    assert variance(young) == pytest.approx(whole, rel=0.05)
    assert variance(halted) == pytest.approx(whole, rel=0.03)


def test_a_move_over_a_gap_is_that_from_the_last_close() -> None:
    class Bars:
        close = np.array([[np.nan, 10.0], [1.0, np.nan], [2.0, 20.0], [np.nan, 10.0]])
        translation, margined = np.zeros((4, 2)), np.zeros(2, np.bool_)

    moves, seen = log_moves(Bars())  # type: ignore[arg-type]
    assert moves == pytest.approx(np.log([[1, 1], [1, 1], [2, 2], [1, 0.5]]))
    assert seen.tolist() == [[False, False], [False, False], [True, True], [False, True]]


def test_settings_that_make_no_sense_are_refused() -> None:
    for change in ({"risk_aversion": 0.0}, {"lookback_bars": 1}, {"cost_factor": -1.0}, {"band": 1.0}):
        with pytest.raises(ConfigError, match="mean_variance"):
            replace(OWN, **change)
    for bars, band in ((0, 0.1), (5, 1.0)):
        with pytest.raises(ConfigError, match="equal_weight"):
            EqualWeightConfig(rebalance_bars=bars, band=band)
