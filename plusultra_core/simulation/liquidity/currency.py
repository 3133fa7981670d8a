"""Bars of assets quoted abroad as money of the account, and what of a result was the currency's.

`cash`: what is bought is paid for in its currency, exchanged at once. Position and result move with price and rate. `margin`: only
the result of a bar is exchanged, at the rate of its close; the translation of the notional is given back, bar by bar, as a dated
cash flow like a dividend. Either way the account holds one currency, and the kernel knows no other.
"""

from typing import NamedTuple

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.simulation.liquidity.rolling import before
from plusultra_core.simulation.records import MarketArrays, Step

FIXED = (1.0, 0.1, 0.01, 0.001)
"""Rates that no market makes: the account's currency, or a part of it."""


class Money(NamedTuple):
    """Bars in account currency, (T, N), and what of a unit's change since its bar before is the rate's alone."""

    open: Float64Array
    high: Float64Array
    low: Float64Array
    close: Float64Array
    translation: Float64Array


def in_account(open_: Float64Array, high: Float64Array, low: Float64Array, close: Float64Array, rate: Float64Array, margin: bool) -> Money:
    """Prices times the rate known at the close of their bar; the open, in cash, times that of the row before, at which its fills exchange.

    After a halt the rate of before it is no longer one, and the open has that of its bar.

    Shapes  (T, N); rate NaN without a bar.
    Units   rate: account currency for one unit of the asset's.
    Looks   back only. In cash the range holds open and close, whatever the rate did within the bar.
    """
    last = before(np.where(np.isfinite(close), rate, np.nan))
    moved = np.isfinite(last) & np.isfinite(close) & (rate != last)
    translation = np.where(moved, before(close) * (rate - last), 0.0)
    follows = np.concatenate((np.zeros((1, rate.shape[1]), np.bool_), np.isfinite(close[:-1])))
    first = open_ * np.where(moved & follows & (not margin), last, rate)
    top, bottom, end = high * rate, low * rate, close * rate
    wide = moved & (not margin)
    top = np.where(wide, np.fmax(np.fmax(top, first), end), top)
    bottom = np.where(wide, np.fmin(np.fmin(bottom, first), end), bottom)
    return Money(first, top, bottom, end, translation)


def conversion_bps(rate: Float64Array, cost_bps: float) -> Float64Array:
    """What exchanging the money of a fill costs, by asset; 0 where the rate is no market's: a market's may stand at parity, not stay there.

    Shapes  rate (T, N); result (N,).
    """
    return np.where((np.isfinite(rate) & ~np.isin(rate, FIXED)).any(axis=0), cost_bps, 0.0)


def results_from(market: MarketArrays) -> Float64Array:
    """What the close of each bar is held against: the close before, and where only results are exchanged what the rate alone made of it.

    The close over it is the move of the quoted price there, else that of the value in account money.
    Shapes  result (T, N); NaN where there is no close before.
    """
    return before(market.close) + np.where(market.margined, market.translation, 0.0)


def without(steps: Step, held_before: Float64Array, given: Float64Array) -> Step:
    """Steps without what the rate made of the notional: of the price result, of the drift of fills, and of funding, which gave it back.

    Shapes  all alike. Units  given: account currency for one unit.
    """
    return steps._replace(
        price_pnl=steps.price_pnl - (held_before + steps.fill) * given,
        latency_drift=steps.latency_drift - steps.fill * given,
        funding=steps.funding - held_before * given,
    )


class Attribution(NamedTuple):
    """Terms of a ledger, (S, A)."""

    steps: Step
    currency_pnl: Float64Array
    """Part of price_pnl."""
    conversion: Float64Array
    """Part of spread."""


def attribute(steps: Step, market: MarketArrays, start: int, asset_A: Int64Array) -> Attribution:
    """The kernel's terms with every amount in its place; each row's sum stays what it was.

    In margin the kernel's price result holds the translation of the notional, its drift that of the fills and its funding what is
    given back: all three are taken out. In cash the translation of what is held is named as a part of the price result.
    Shapes  steps (S, A) from bar start on; asset (A,) columns of the market.
    """
    rows = slice(start + 1, start + 1 + len(steps.fill))
    if not (market.translation[rows].any() or market.conversion_bps.any()):
        return Attribution(steps, np.zeros(steps.fill.shape), np.zeros(steps.fill.shape))
    moved = market.translation[rows][:, asset_A]
    margined = market.margined[asset_A]
    held_before = np.concatenate((np.zeros((1, moved.shape[1])), steps.position[:-1]))
    held = held_before + steps.fill
    corrected = without(steps, held_before, np.where(margined, moved, 0.0))
    met = slice(start, start + len(steps.fill))
    half = market.half_spread_bps[met][:, asset_A]
    part = np.divide(market.conversion_bps[asset_A] + 0.0 * half, half, out=np.zeros_like(half), where=half > 0.0)
    return Attribution(corrected, np.where(margined, 0.0, held * moved), steps.spread * part)
