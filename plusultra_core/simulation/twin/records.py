"""The tensors of the twin: the market and the accounts on one device, in one precision."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plusultra_core.guardrails.limits import ACTIVE
from plusultra_core.simulation.market import last_close
from plusultra_core.simulation.records import MarketArrays
from plusultra_core.simulation.twin.draws import stream_keys

BARS = ("open", "high", "low", "close", "volume", "funding", "dividend")
"""What is read of the bar that comes."""
KNOWN = ("sigma", "adv_ccy", "depth")
"""What is read of the bar of the decision."""


class TensorMarket(NamedTuple):
    """A market on a device. Prices are 1 where there is no bar, so that no NaN meets a gradient; the masks say where.

    Shapes  (T, N) each; terms (N,); ts_ns (T,).
    """

    ts_ns: Tensor
    session_end: Tensor
    bars: dict[str, Tensor]
    opened: Tensor
    """Whether the bar has an open."""
    tradable: Tensor
    half_spread: Tensor
    """Fraction of price."""
    last_close: Tensor
    """NaN before the first bar and after the last."""
    lot: Tensor
    tick: Tensor
    end: Tensor
    terminal_ret: Tensor


class TensorAccounts(NamedTuple):
    """E accounts of A slots: the state of `Accounts`, every step anew, so that a gradient finds its way back.

    `held`, `mark` and the others are in the precision of the market; times, bars and codes are whole numbers.
    """

    t: Tensor
    """(E,) bar of the next decision."""
    asset: Tensor
    key: Tensor
    """(E, A) what the draws of the slot begin with."""
    cash: Tensor
    equity: Tensor
    peak: Tensor
    guard: Tensor
    done: Tensor
    held: Tensor
    mark: Tensor
    weight: Tensor
    working: Tensor
    limit: Tensor
    arrival: Tensor
    decision: Tensor
    fill: Tensor
    shift: Tensor
    pnl: Tensor
    pnl_peak: Tensor


class Happened(NamedTuple):
    """What a step did, (E, A) each, by the names of `Step`."""

    target: Tensor
    guard: Tensor
    decision: Tensor
    arrival: Tensor
    order: Tensor
    fill: Tensor
    price: Tensor
    status: Tensor
    reason: Tensor
    position: Tensor
    mark: Tensor
    price_pnl: Tensor
    spread: Tensor
    impact: Tensor
    latency_drift: Tensor
    fees: Tensor
    funding: Tensor
    borrow: Tensor
    liquidation: Tensor


def tensor_market(market: MarketArrays, device: torch.device | str, dtype: torch.dtype) -> TensorMarket:
    """The market of the kernel on a device, copied once."""

    def put(values: np.ndarray) -> Tensor:
        kept = torch.from_numpy(np.array(values))
        return kept.to(device, dtype if kept.is_floating_point() else None)

    here = market.tradable
    bars = {name: put(np.where(np.isnan(array := getattr(market, name)), 1.0, array)) for name in (*BARS, *KNOWN)}
    return TensorMarket(
        ts_ns=put(market.ts_ns),
        session_end=put(market.session_end),
        bars=bars,
        opened=put(here & np.isfinite(market.open)),
        tradable=put(here),
        half_spread=put(np.broadcast_to(market.half_spread_bps * 1e-4, here.shape)),
        last_close=put(last_close(market)),
        lot=put(market.lot),
        tick=put(market.tick),
        end=put(market.end),
        terminal_ret=put(market.terminal_ret),
    )


def open_accounts(market: TensorMarket, t_E: Tensor, asset_EA: Tensor, stream_E: Tensor, capital: float, seed: int) -> TensorAccounts:
    """Accounts that hold nothing at the close of their bar t. Shapes  t, stream (E,), asset (E, A), int64 on the market's device."""
    dtype, device = market.half_spread.dtype, market.half_spread.device
    money = torch.full(t_E.shape, capital, dtype=dtype, device=device)
    none = torch.zeros(asset_EA.shape, dtype=dtype, device=device)
    never = torch.zeros_like(asset_EA)
    return TensorAccounts(
        t=t_E,
        asset=asset_EA,
        key=stream_keys(seed, stream_E[:, None].expand_as(asset_EA), asset_EA),
        cash=money,
        equity=money,
        peak=money,
        guard=torch.full_like(t_E, ACTIVE),
        done=torch.zeros_like(t_E, dtype=torch.bool),
        held=none,
        mark=market.last_close[t_E[:, None], asset_EA],
        weight=none,
        working=none,
        limit=torch.full_like(none, torch.nan),
        arrival=never,
        decision=never - 1,
        fill=none,
        shift=none,
        pnl=none,
        pnl_peak=none,
    )
