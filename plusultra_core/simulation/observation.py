"""What a policy sees of its own account. The environment of PPO and the desk call this one function."""

import math

import numpy as np
from numba import njit

from plusultra_core.arrays import Float32Array, Float64Array, Int64Array
from plusultra_core.simulation.records import Accounts, Step

OWN_STATE = ("position", "working", "drawdown", "last_trade", "time_left")
"""Per slot: position, working order and last fill as parts of the slot's limit; drawdown of the slot's own
result; part of the episode that is left."""
_CLIP = 5.0


@njit(cache=True, error_model="numpy", _nrt=False)
def write_own_state(accounts: Accounts, step: Step, limit: float, start_E: Int64Array, episode_bars: int, own_EAO: Float64Array) -> None:
    """Own state of every slot at the close of its account's bar t, written into own_EAO.

    A slot is measured against its limit: `limit` x equity is the money it may hold, `limit` x initial
    capital the money it began with. So a slot of a portfolio of A assets with limit 1 / A looks like an
    account of its own with limit 1, which is what PPO trains on.
    Shapes  start (E,); result (E, A, 5), in the order of OWN_STATE.
    Units   parts of the limit, clipped to [-5, 5]; drawdown and time left in [0, 1].
    Looks   at nothing after the close of bar t.
    """
    num_slots = own_EAO.shape[1]
    own, held, working = own_EAO.reshape(-1), accounts.position_EA.reshape(-1), accounts.working_EA.reshape(-1)
    fill, mark, equity, capital, t = (
        step.fill.reshape(-1),
        accounts.mark_EA.reshape(-1),
        accounts.equity_E,
        accounts.capital_E,
        accounts.t_E,
    )
    pnl, best = accounts.pnl_EA.reshape(-1), accounts.pnl_peak_EA.reshape(-1)
    if num_slots == 1:
        for e in range(t.size):
            place = e * len(OWN_STATE)
            own[place], own[place + 1], own[place + 2], own[place + 3] = own_slot(
                held[e], working[e], fill[e], mark[e], money_of(equity[e], limit), limit * capital[e], pnl[e], best[e]
            )
            own[place + 4] = time_left(t[e], start_E[e], episode_bars)
    else:
        for e in range(t.size):
            money, left = money_of(equity[e], limit), time_left(t[e], start_E[e], episode_bars)
            for k in range(e * num_slots, (e + 1) * num_slots):
                place = k * len(OWN_STATE)
                own[place], own[place + 1], own[place + 2], own[place + 3] = own_slot(
                    held[k], working[k], fill[k], mark[k], money, limit * capital[e], pnl[k], best[k]
                )
                own[place + 4] = left


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def money_of(equity: float, limit: float) -> float:
    """What a slot may hold; without end where there is no equity, so that its parts are none."""
    return limit * equity if equity > 0.0 else math.inf


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def time_left(t: int, start: int, episode_bars: int) -> float:
    """Part of the episode that is left; episodes follow one another."""
    bars = float(t - start)
    passed = bars - np.floor(bars / episode_bars) * episode_bars  # exact, and ten times as fast as the remainder of whole numbers
    left: float = 1.0 - passed / episode_bars
    return left


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def own_slot(
    position: float, working: float, fill: float, mark: float, money: float, capital: float, pnl: float, pnl_peak: float
) -> tuple[float, float, float, float]:  # fmt: skip
    """Position, working order, drawdown and last fill of one slot, as parts of its limit."""
    fall = min(max((pnl_peak - pnl) / (capital + pnl_peak), 0.0), 1.0)
    return bound(position * mark / money, _CLIP), bound(working * mark / money, _CLIP), fall, bound(fill * mark / money, _CLIP)


@njit(cache=True, error_model="numpy", _nrt=False)
def observe_single(
    equity_E: Float64Array, capital_E: Float64Array, position_E: Float64Array, working_E: Float64Array, fill_E: Float64Array,
    mark_E: Float64Array, pnl_E: Float64Array, pnl_peak_E: Float64Array, t_E: Int64Array, asset_E: Int64Array, start_E: Int64Array,
    episode_bars: int, table_TNF: Float32Array, obs_EP: Float32Array,
) -> None:  # fmt: skip
    """`write_own_state` with the limit 1 and `write_observation`, of accounts of one slot, in one pass and with less to hand over."""
    num_market = table_TNF.shape[2]
    for e in range(obs_EP.shape[0]):
        row, market = obs_EP[e], table_TNF[t_E[e], asset_E[e]]
        for f in range(num_market):
            row[f] = market[f]
        row[num_market], row[num_market + 1], row[num_market + 2], row[num_market + 3] = own_slot(
            position_E[e], working_E[e], fill_E[e], mark_E[e], money_of(equity_E[e], 1.0), capital_E[e], pnl_E[e], pnl_peak_E[e]
        )
        row[num_market + 4] = time_left(t_E[e], start_E[e], episode_bars)


@njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
def bound(value: float, limit: float) -> float:
    """`value` within [-limit, limit]; NaN, of a slot that never had a price, is 0."""
    return min(max(value, -limit), limit) if value == value else 0.0


@njit(cache=True, error_model="numpy", _nrt=False)
def write_observation(table_TNF: Float32Array, accounts: Accounts, own_EAO: Float64Array, first_bar: int, obs_EAP: Float32Array) -> None:
    """Market row of each slot's (bar, asset), then its own state, written into obs_EAP.

    Shapes  table (T, N, F), own (E, A, O); result (E, A, F + O). Row 0 of the table is bar `first_bar`.
    """
    num_market = table_TNF.shape[2]
    for e in range(obs_EAP.shape[0]):
        t = accounts.t_E[e] - first_bar
        for a in range(obs_EAP.shape[1]):
            n = accounts.asset_EA[e, a]
            for f in range(num_market):
                obs_EAP[e, a, f] = table_TNF[t, n, f]
            for o in range(own_EAO.shape[2]):
                obs_EAP[e, a, num_market + o] = own_EAO[e, a, o]
