"""Portfolios that anybody could run: equal parts, rebalanced; and the best trade of this bar for a forecast and a covariance."""

import math
from dataclasses import dataclass

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.clock import NS_PER_YEAR
from plusultra_core.errors import ConfigError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.inference.decide import Book
from plusultra_core.inference.portfolios.covariance import shrunk_covariance
from plusultra_core.inference.portfolios.kernels import optimal_weights
from plusultra_core.inference.strategies import LEVELS, Decide, book_of
from plusultra_core.simulation.costs import Rules, order_cost_frac
from plusultra_core.simulation.engine import Environment
from plusultra_core.simulation.liquidity.currency import results_from
from plusultra_core.simulation.records import MarketArrays, Step
from plusultra_core.simulation.sizing import request_weights, working_weights

_NO_LOAN = 1e3
"""What a loan costs that nobody gives: more than any forecast promises."""
_FLOOR = 1e-12
"""Least variance: prices that stood still have a best weight too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EqualWeightConfig:
    """Equal parts of the equity."""

    rebalance_bars: int
    """Bars between two rebalancings; 21 daily bars are about a month."""
    band: float
    """What is off by less than this part of its weight is left alone."""

    def __post_init__(self) -> None:
        if self.rebalance_bars < 1 or not 0 <= self.band < 1:
            raise ConfigError(f"equal_weight: expected rebalance_bars >= 1 and band in [0, 1), found {self.rebalance_bars}, {self.band}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanVarianceConfig:
    """The best trade of this bar, as if there were no later one."""

    risk_aversion: float
    """Of the whole book: this / 2 x variance is taken from the gain."""
    lookback_bars: int
    """Bars of the covariance."""
    cost_factor: float
    """Costs of an order are taken from the gain this many times; 2 pays for the way in and the way out."""
    band: float
    """No-trade band beyond that of the costs, part of the limit."""

    def __post_init__(self) -> None:
        if self.risk_aversion <= 0 or self.lookback_bars < 2 or not self.cost_factor >= 0 or not 0 <= self.band < 1:
            raise ConfigError("mean_variance: expected risk_aversion > 0, lookback_bars >= 2, cost_factor >= 0, band in [0, 1)")


def equal_weight(first: int, cfg: EqualWeightConfig) -> Decide:
    """Every asset that trades or is held has the same part of the equity, brought back to it every so many bars; nothing is sold short.

    What traded since the day before but has no bar on the day keeps its part for its next bar: a holiday of most assets is no reason to
    put everything into the others.
    """

    def decide(t: int, env: Environment, last: Step) -> Float64Array:
        accounts, traded_TA = env.accounts, env.market.tradable
        request: Float64Array = np.full(accounts.weight_EA.shape, np.nan)
        day = t - (t - first) % cfg.rebalance_bars
        seen_A = traded_TA[max(day + 1 - cfg.rebalance_bars, 0) : day + 1].any(axis=0)
        due_A = traded_TA[t] & seen_A & ~traded_TA[day:t].any(axis=0)
        if not due_A.any():
            return request
        part = 1.0 / int((seen_A | (accounts.weight_EA[0] != 0.0)).sum())
        wish_EA = np.ones_like(request)
        return request_weights(wish_EA, due_A[None], accounts.weight_EA, working_weights(accounts), part, cfg.band)

    return decide


def mean_variance(
    quantiles_TAQ: Float64Array, first: int, horizon_bars: int, seen: MarketArrays, guard: GuardrailsConfig, cfg: MeanVarianceConfig
) -> Decide:
    """The weights with the most mean return over the horizon, less risk, the cost of the trade and the loan of shorts, within the limits.

    Myopic: what is paid now is set against what the next `horizon_bars` bars are to bring; nothing is planned beyond. Row 0 of the
    quantiles is bar `first`; the covariance is that of the closes of `seen`, shrunk. Within the cost of a trade nothing is traded.
    Looks   back only.
    """
    moves_TA, traded_TA = log_moves(seen)

    def decide(t: int, env: Environment, last: Step) -> Float64Array:
        book = book_of(t, env, horizon_bars)
        begin = max(t + 1 - cfg.lookback_bars, 0)
        known_A = np.isfinite(quantiles_TAQ[t - first]).all(axis=1) & (2 * traded_TA[begin : t + 1].sum(axis=0) > cfg.lookback_bars)
        request: Float64Array = np.full((1, known_A.size), np.nan)
        if not known_A.any() or not book.equity_ccy > 0:
            return request
        median_A = quantiles_TAQ[t - first, known_A, LEVELS.index(0.5)]
        own_TA = since_listed(moves_TA[begin : t + 1][:, known_A], traded_TA[begin : t + 1][:, known_A])
        covariance_AA, _ = shrunk_covariance(own_TA)  # lends calm assets the variance of wild ones: a risk, and no gain
        wish_A = best_trade(
            median_A, own_TA.var(axis=0), covariance_AA, of_assets(book, known_A), guard, gross_of(book.weight_A[~known_A]), cfg
        )
        limit = guard.max_weight
        whole_A = np.full(known_A.size, np.nan)
        whole_A[known_A] = wish_A / limit
        return request_weights(whole_A[None], known_A[None], book.weight_A[None], book.working_A[None], limit, cfg.band)

    return decide


def best_trade(
    median_A: Float64Array,
    variance_A: Float64Array,
    covariance_AA: Float64Array,
    book: Book,
    guard: GuardrailsConfig,
    gross_elsewhere: float,
    cfg: MeanVarianceConfig,
) -> Float64Array:
    """Weights after the best trade of one bar; what is not worth its cost stays as it is held.

    An order pays spread and fee, and the more impact the larger it is, no larger than one bar fills: the weights are the best ones at
    what the last unit of each order costs, and the orders cost that much. What reduces is charged like what opens. The gain of a
    position is the mean of simple returns, half the asset's own variance above the median of logarithms.
    Shapes  (A,), (A,), (A, A); result (A,).
    Units   median in volatilities of the horizon; variance and covariance of log returns per bar; weights signed fractions of equity.
    """
    rules, num_assets = book.rules, median_A.size
    log_A = median_A * book.sigma_A * math.sqrt(book.horizon_bars)
    gain_A = np.expm1(log_A + 0.5 * book.horizon_bars * variance_A)  # mean of what a position earns, were returns lognormal
    risk_AA = cfg.risk_aversion * book.horizon_bars * covariance_AA + _FLOOR * np.eye(num_assets)
    loan = rules.borrow_frac_year * book.horizon_bars * rules.bar_ns / NS_PER_YEAR if book.shorts else _NO_LOAN
    loan_A = np.full(num_assets, loan)
    room = max(guard.max_gross - gross_elsewhere, 0.0)
    wish_A: Float64Array = np.zeros(num_assets)

    def order(cost_A: Float64Array, steep_A: Float64Array, most_A: Float64Array) -> None:
        """The best weights at what orders cost go into wish_A."""
        costs = (cfg.cost_factor * part_A for part_A in (cost_A, steep_A, most_A))
        optimal_weights(gain_A, risk_AA, book.weight_A, *costs, rules.impact_exponent, loan_A, guard.max_weight, room, wish_A)

    flat, none_A, bar_A = rules._replace(impact_coef=0.0), np.zeros(num_assets), rules.participation * book.adv_A
    order(price(none_A, book, flat), none_A, none_A)
    largest_A = np.minimum(np.abs(wish_A - book.weight_A) * book.equity_ccy, bar_A)
    last = 1.0 + rules.impact_exponent  # what the last unit of an order adds to its impact, over the mean
    steep_A = last * rules.impact_coef * book.sigma_A * (book.equity_ccy / book.adv_A) ** rules.impact_exponent
    most_A = last * (price(bar_A, book, rules) - price(bar_A, book, flat))
    order(price(largest_A, book, flat), steep_A, most_A)  # the least fee weighs on small orders
    return wish_A


def price(quantity_A: Float64Array, book: Book, rules: Rules) -> Float64Array:
    """What market orders of these notionals cost, fraction of what they trade."""
    cost_A: Float64Array = np.empty_like(quantity_A)
    order_cost_frac(quantity_A, book.sigma_A, book.adv_A, book.half_spread_bps_A, rules, cost_A)
    return cost_A


def of_assets(book: Book, chosen_A: np.ndarray) -> Book:
    """The book of some of its assets."""
    parts = {name: getattr(book, name)[chosen_A] for name in ("weight_A", "working_A", "sigma_A", "adv_A", "half_spread_bps_A")}
    return book._replace(**parts)


def gross_of(weight_A: Float64Array) -> float:
    """Sum of the absolute weights."""
    return float(np.abs(weight_A).sum())


def log_moves(market: MarketArrays) -> tuple[Float64Array, np.ndarray]:
    """Log return of each bar from the close known before it, 0 where there is none; and whether there is one. Shapes  (T, N), (T, N).

    Where only results are exchanged it is that of the quoted price.
    """
    ratio_TA = market.close / results_from(market)
    seen_TA = np.isfinite(ratio_TA)
    return np.log(np.where(seen_TA, ratio_TA, 1.0)), seen_TA


def since_listed(moves_TA: Float64Array, seen_TA: np.ndarray) -> Float64Array:
    """Moves whose squares average over all bars to what they do over those since an asset's first: before it nothing is known, not calm.

    Over a halt nothing is missing: the move after it holds all that happened. Shapes  all (T, A).
    """
    share_A = 1.0 - seen_TA.argmax(axis=0) / len(seen_TA)
    scaled_TA: Float64Array = moves_TA / np.sqrt(share_A)
    return scaled_TA
