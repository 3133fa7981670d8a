"""From a forecast to a weight, and from a wish to an order: the two rules that backtest, PPO and desk share."""

import math
from typing import Any

import numpy as np
from numba import njit

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.simulation.records import Accounts

IQR_OF_NORMAL = 1.3489795003921634
"""Distance between the quartiles of a standard normal."""


def raw_weight(quantiles: Any, levels: tuple[float, ...], gain: float) -> Float64Array:
    """Part of the limit that a forecast asks for: gain x median / risk, within [-1, 1].

    Risk is the distance between the quartiles over that of a normal, in the units of the quantiles; their
    scale cancels, so that vol-scaled quantiles give the same weight as returns would.
    Shapes  quantiles (..., Q), rising, with levels 0.25, 0.5 and 0.75 among them; result (...).
    NaN     where one of the three is not finite, or they do not rise: nobody should hold the limit for a forecast that is none.
    """
    values = np.asarray(quantiles, dtype=np.float64)
    low, median, high = (values[..., levels.index(level)] for level in (0.25, 0.5, 0.75))
    known = np.isfinite(low) & np.isfinite(high) & (low <= median) & (median <= high)
    low, median, high = (np.where(known, level, np.nan) for level in (low, median, high))
    risk = np.maximum((high - low) / IQR_OF_NORMAL, 1e-6)
    return np.clip(gain * median / risk, -1.0, 1.0)


def working_weights(accounts: Accounts) -> Float64Array:
    """What working orders have still to trade, as parts of equity; 0 where none works. Shapes  result (E, A)."""
    money_EA = np.where(accounts.working_EA != 0.0, accounts.working_EA * accounts.mark_EA, 0.0)
    equity_EA = np.broadcast_to(accounts.equity_E[:, None], money_EA.shape)
    return np.divide(money_EA, equity_EA, out=np.zeros_like(money_EA), where=equity_EA > 0)


def request_weights(
    part_EA: Float64Array, present_EA: BoolArray, weight_EA: Float64Array, working_EA: Float64Array, limit: float, band: float
) -> Float64Array:
    """Targets of the simulator from wished parts of the limit: NaN (hold) within the no-trade band and where there is no forecast.

    Within the band of what is held, an order still at work that would lead out of it is called back: the weight held is asked for.
    Shapes  all (E, A).
    Units   `part` and `band` are parts of the limit; weights and the result are parts of equity.
    """
    wish = part_EA * limit
    near = np.abs(wish - weight_EA) < band * limit
    astray = near & (working_EA != 0.0) & (np.abs(wish - weight_EA - working_EA) >= band * limit)
    request: Float64Array = np.where(near, np.where(astray, weight_EA, np.nan), wish)
    return np.where(present_EA & np.isfinite(wish), request, np.nan)


@njit(cache=True, error_model="numpy", _nrt=False)
def request_single(
    part_E: Float64Array, present_TN: BoolArray, t_E: Int64Array, asset_E: Int64Array, weight_E: Float64Array, working_E: Float64Array,
    mark_E: Float64Array, equity_E: Float64Array, peak_E: Float64Array, band: float, request_E: Float64Array, before_E2: Float64Array,
) -> None:  # fmt: skip
    """`request_weights` of accounts of one slot with the limit 1, compiled; beside it equity and drawdown before the step."""
    for e in range(part_E.size):
        wish, weight, equity = part_E[e], weight_E[e], equity_E[e]
        working = working_E[e] * mark_E[e] / equity if working_E[e] != 0.0 and equity > 0.0 else 0.0
        near = abs(wish - weight) < band
        astray = working != 0.0 and abs(wish - weight - working) >= band
        request = (weight if astray else math.nan) if near else wish
        request_E[e] = request if present_TN[t_E[e], asset_E[e]] and math.isfinite(wish) else math.nan
        before_E2[e, 0] = equity
        before_E2[e, 1] = 1.0 - equity / peak_E[e]
