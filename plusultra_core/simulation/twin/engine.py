"""Doors of the twin: accounts in lockstep on a device, and whole paths that a gradient can be taken of."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plusultra_core.arrays import Int64Array
from plusultra_core.clock import NS_PER_MS
from plusultra_core.errors import ContractError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.guardrails.margin import within_margin
from plusultra_core.market import CostsConfig
from plusultra_core.simulation.engine import SimulationConfig, build_rules
from plusultra_core.simulation.market import check_market, check_orders
from plusultra_core.simulation.records import MarketArrays
from plusultra_core.simulation.twin.draws import Latency
from plusultra_core.simulation.twin.records import Happened, TensorAccounts, open_accounts, tensor_market
from plusultra_core.simulation.twin.step import step

Step = Callable[[TensorAccounts, Tensor], tuple[TensorAccounts, Happened]]


class TensorEnvironment:
    """E accounts on one market and one device. Nothing leaves the device: requests, accounts and results are its tensors."""

    accounts: TensorAccounts

    def __init__(
        self,
        market: MarketArrays,
        bar_ns: int,
        cfg: SimulationConfig,
        costs: CostsConfig,
        guard: GuardrailsConfig,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        compiled: bool = False,
    ) -> None:
        """`compiled` fuses the step by torch.compile, which takes minutes the first time and pays on a GPU alone."""
        check_market(market)
        check_orders(market, cfg.order_type)
        self.cfg, self.rules, self.margin = cfg, build_rules(cfg, costs, bar_ns), costs.margin
        self.limits = within_margin(guard, self.margin).limits()
        self.market = tensor_market(market, device, dtype)
        ns = torch.tensor([round(ms * NS_PER_MS) for ms in cfg.latency_ms], dtype=torch.int64, device=device)
        cumulative = torch.from_numpy(np.cumsum(np.array(cfg.latency_prob, dtype=np.float64))).to(device)
        self.latency = Latency(ns, cumulative)
        self._bars_left = 0
        self._step: Step = torch.compile(self.once, dynamic=False) if compiled else self.once

    def reset(self, t_E: Int64Array, asset_EA: Int64Array, stream_E: Int64Array) -> TensorAccounts:
        """Start every account anew at the close of its bar t. Shapes  (E,), (E, A), (E,).

        Raises  ContractError for bars or assets that are not there.
        """
        num_times, num_assets = self.market.tradable.shape
        if t_E.min() < 0 or t_E.max() > num_times - 2 or asset_EA.min() < 0 or asset_EA.max() >= num_assets or stream_E.min() < 0:
            raise ContractError(f"reset: expected bars in [0, {num_times - 2}], assets in [0, {num_assets}) and streams >= 0")
        device = self.market.half_spread.device
        t, asset, stream = (torch.from_numpy(np.array(x, dtype=np.int64)).to(device) for x in (t_E, asset_EA, stream_E))
        self.accounts = open_accounts(self.market, t, asset, stream, self.cfg.initial_capital_ccy, self.cfg.seed)
        self._bars_left = num_times - 1 - int(t_E.max())
        return self.accounts

    def step(self, request: Tensor) -> Happened:
        """One bar of every account. Shapes  request (E, A), in any precision. Units  parts of equity. NaN  hold.

        Raises  ContractError where an account that lives stands on the last bar.
        """
        last = self.market.ts_ns.numel() - 1
        if self._bars_left < 1 and bool((~self.accounts.done & (self.accounts.t >= last)).any()):  # nothing is asked of the device before
            raise ContractError(f"step: an account stands on bar {last}, the last; reset it")
        self._bars_left -= 1
        self.accounts, happened = self._step(self.accounts, request.to(self.market.half_spread.dtype))
        return happened

    def once(self, accounts: TensorAccounts, request: Tensor) -> tuple[TensorAccounts, Happened]:
        """The step as a function of given accounts, for who compiles it together with what comes before and after."""
        asked = request if self.margin.shorts else torch.where(request.isneginf(), request, request.clamp(min=0.0))
        return step(self.market, accounts, asked, self.latency, self.rules, self.limits)


class Path(NamedTuple):
    """Books of E accounts over S steps. Shapes  (S + 1, E), the first before any step; turnover and costs (S, E)."""

    equity: Tensor
    turnover: Tensor
    """Traded notional over the equity before."""
    costs: Tensor
    """All of them, fractions of the equity before."""


def run_path(env: TensorEnvironment, requests: Tensor) -> Path:
    """Requests that are known beforehand, carried out one after the other; a gradient flows from the books to them.

    Shapes  requests (S, E, A).
    """
    equity, turnover, costs = [env.accounts.equity], [], []
    for request in requests:
        happened = env.step(request)
        before = equity[-1]
        paid = happened.spread + happened.impact + happened.latency_drift + happened.fees + happened.funding + happened.borrow
        turnover.append((happened.fill.abs() * happened.price).sum(dim=1) / before)
        costs.append(paid.sum(dim=1) / before)
        equity.append(env.accounts.equity)
    return Path(torch.stack(equity), torch.stack(turnover), torch.stack(costs))
