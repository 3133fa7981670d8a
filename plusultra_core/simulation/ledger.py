"""The ledger: every step, order and cost of a run, kept as arrays and handed out as columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plusultra_core.arrays import Float64Array, Int8Array, Int64Array
from plusultra_core.simulation.liquidity.currency import attribute
from plusultra_core.simulation.records import (
    CANCELLED,
    CARRIED,
    COSTS,
    NO_ORDER,
    PARTIAL,
    REPLACED,
    Accounts,
    MarketArrays,
    Step,
    empty_step,
)

Columns = dict[str, NDArray[Any]]
PARTS = ("currency_pnl", "conversion")
"""What of price_pnl is the exchange rate's, and what of spread was paid to exchange money."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """One account. Row i of `steps` goes from the close ts_ns[i] to the close ts_ns[i + 1]."""

    start: int
    """Bar of the market on which the first decision was taken; order ids count from it."""
    ts_ns: Int64Array
    """(S + 1,) closes; the first is that of the first decision."""
    steps: Step
    """(S, A) arrays."""
    equity: Float64Array
    """(S + 1,) the first is the capital."""
    cash: Float64Array
    peak: Float64Array
    guard_state: Int8Array
    """(S,) state in which the decision of each step was taken."""
    liquidated: bool
    proxy: Int8Array
    """(S, A) what of the bar that was met comes from the market's config."""
    currency_pnl: Float64Array
    """(S, A) part of price_pnl that is the exchange rate's alone."""
    conversion: Float64Array
    """(S, A) part of spread that was paid for exchanging the money."""

    def account(self) -> Columns:
        """One row a close: equity, exposure, and the terms that explain the change since the row before.

        Units   money in account currency; `turnover` is notional bought and sold over the equity before, both sides counted.
        """
        steps = self.steps
        notional = steps.position * np.nan_to_num(steps.mark)
        before = self.equity[:-1]
        traded = np.abs(steps.fill * steps.price).sum(axis=1)
        columns: Columns = {
            "ts_ns": self.ts_ns,
            "equity": self.equity,
            "cash": self.cash,
            "gross": _opened(np.abs(notional).sum(axis=1)),
            "net": _opened(notional.sum(axis=1)),
            "price_pnl": _opened(steps.price_pnl.sum(axis=1)),
        }
        for name in (*COSTS, "liquidation"):
            columns[name] = _opened(getattr(steps, name).sum(axis=1))
        for name in PARTS:
            columns[name] = _opened(getattr(self, name).sum(axis=1))
        columns["drawdown"] = 1.0 - self.equity / self.peak
        columns["turnover"] = _opened(np.where(before > 0, traded / np.where(before > 0, before, 1.0), 0.0))
        columns["guard_state"] = np.concatenate((np.zeros(1, np.int8), self.guard_state))
        return columns

    def positions(self) -> Columns:
        """One row a close and asset that is held, asked for, or cost something."""
        steps = self.steps
        equity = self.equity[1:, None]
        active = (steps.position != 0) | (steps.fill != 0) | (np.nan_to_num(steps.request) != 0)
        for name in ("price_pnl", *COSTS):  # what was delisted at its last price still owes the loan of its last bar
            active |= getattr(steps, name) != 0
        row, slot = np.nonzero(active)
        weight = np.where(equity > 0, steps.position * np.nan_to_num(steps.mark) / np.where(equity > 0, equity, 1.0), 0.0)
        columns: Columns = {
            "ts_ns": self.ts_ns[1:][row],
            "slot": slot,
            "position": steps.position[row, slot],
            "mark": steps.mark[row, slot],
            "weight": weight[row, slot],
            "target_weight": steps.target[row, slot],
            "guard": steps.guard[row, slot],
        }
        for name in ("price_pnl", *COSTS, "liquidation"):
            columns[name] = getattr(steps, name)[row, slot]
        for name in PARTS:
            columns[name] = getattr(self, name)[row, slot]
        return columns

    def currencies(self, currency_A: Sequence[str]) -> Columns:
        """One row a close and currency in which something is held or was earned, `currency_A` those of the slots.

        Units   account currency: `net` and `gross` value of what is quoted in it, the results of the bar in price and in currency
                (together price_pnl), what was paid to exchange. The cash of the account is in its own currency alone.
        """
        steps = self.steps
        names = sorted(set(currency_A))
        code_A = np.array([names.index(name) for name in currency_A])
        value = steps.position * np.nan_to_num(steps.mark)
        terms = {
            "net": value,
            "gross": np.abs(value),
            "local_pnl": steps.price_pnl - self.currency_pnl,
            "currency_pnl": self.currency_pnl,
            "conversion": self.conversion,
        }
        sums = {name: np.stack([term[:, code_A == c].sum(axis=1) for c in range(len(names))], axis=1) for name, term in terms.items()}
        row, code = np.nonzero(np.any([term != 0 for term in sums.values()], axis=0))
        columns: Columns = {"ts_ns": self.ts_ns[1:][row], "currency": np.array(names)[code]}
        return columns | {name: term[row, code] for name, term in sums.items()}

    def orders(self) -> Columns:
        """One row an order: what was asked, when it met the market, what it got at what cost, how and why it ended.

        An order whose last bar still carries it ended when it was replaced, or is open at the end of the ledger.
        """
        steps = self.steps
        row, slot, name = self._lived()
        first = np.flatnonzero(np.concatenate(([True], name[1:] != name[:-1]))) if name.size else np.zeros(0, np.int64)
        last = np.concatenate((first[1:], [name.size])) - 1 if name.size else first
        at: Any = (row, slot)
        fill = steps.fill[at]
        filled = _sum(fill, first)
        paid = _sum(fill * steps.price[at], first)
        status, reason = steps.status[at][last].copy(), steps.reason[at][last].copy()
        replaced = (status == CARRIED) & (row[last] < len(self.ts_ns) - 2)
        status[replaced] = np.where(filled[replaced] != 0, PARTIAL, CANCELLED)
        reason[replaced] = REPLACED
        status[(status == CANCELLED) & (filled != 0)] = PARTIAL
        filled_rows = np.where(fill != 0, row, -1)
        fill_row = np.maximum.reduceat(filled_rows, first) if name.size else filled_rows
        columns: Columns = {
            "order_id": name[first],
            "slot": slot[first],
            "decision_ns": self.ts_ns[row[first]],
            "arrival_ns": steps.arrival[at][first],
            "fill_ns": np.where(fill_row >= 0, self.ts_ns[fill_row + 1], -1),
            "side": np.sign(steps.order[at][first]).astype(np.int8),
            "qty_ordered": np.abs(steps.order[at][first]),
            "qty_filled": np.abs(filled),
            "price": np.where(filled != 0, paid / np.where(filled != 0, filled, 1.0), np.nan),
            "status": status,
            "reason": reason,
            "guard": steps.guard[at][first],
            "num_bars": last - first + 1,
            "proxy": np.bitwise_or.reduceat(self.proxy[at], first) if name.size else self.proxy[at],
        }
        for term in ("spread", "impact", "latency_drift"):
            columns[term] = _sum(getattr(steps, term)[at], first)
        columns["fees"] = _sum((steps.fees - steps.liquidation)[at], first)
        return columns

    def executions(self) -> Columns:
        """One row an order and bar in which it lived, by order and time: what it still asked, what it got, at what cost, and why no more.

        `qty` and `fill` are signed; `mark` is the price at the bar's close; an order's costs are those of `orders`, bar by bar.
        """
        steps = self.steps
        row, slot, name = self._lived()
        at: Any = (row, slot)
        columns: Columns = {
            "order_id": name,
            "slot": slot,
            "bar": self.start + 1 + row,
            "decision_bar": steps.decision[at],
            "arrival_ns": steps.arrival[at],
            "qty": steps.order[at],
            "fill": steps.fill[at],
            "price": np.where(steps.fill[at] != 0, steps.price[at], np.nan),
            "mark": steps.mark[at],
            "status": steps.status[at],
            "reason": steps.reason[at],
            "proxy": self.proxy[at],
        }
        for term in ("spread", "impact", "latency_drift"):
            columns[term] = getattr(steps, term)[at]
        columns["fees"] = (steps.fees - steps.liquidation)[at]
        return columns

    def _lived(self) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Step, slot and order id of every bar in which an order lived, by order and time."""
        steps = self.steps
        row, slot = np.nonzero(steps.status != NO_ORDER)
        name = (steps.decision[row, slot] - self.start) * steps.status.shape[1] + slot
        order = np.lexsort((row, name))
        return row[order], slot[order], name[order]

    def residual(self) -> Float64Array:
        """Equity change less what the terms explain, relative to the equity before; zero but for rounding."""
        columns = self.account()
        explained = columns["price_pnl"][1:] - sum(columns[name][1:] for name in COSTS)
        scale = np.maximum(np.abs(self.equity[:-1]), np.abs(columns["gross"][1:]))
        residual: Float64Array = (np.diff(self.equity) - explained) / np.maximum(scale, 1.0)
        return residual


class Recorder:
    """Fills a ledger while one account is stepped."""

    def __init__(self, market: MarketArrays, accounts: Accounts, num_steps: int) -> None:
        self._market = market
        self._accounts = accounts
        self._start = int(accounts.t_E[0])
        self._steps = empty_step((num_steps, 1, accounts.asset_EA.shape[1]))
        self._books: Float64Array = np.zeros((num_steps + 1, 1, 4))
        self._row = 0
        self._books[0, 0] = self._book()

    def next_step(self) -> Step:
        """The arrays of the step that comes, (1, A) views."""
        return Step._make(field[self._row] for field in self._steps)

    def close_step(self) -> None:
        """Write down the account after its step."""
        self._row += 1
        self._books[self._row, 0] = self._book()

    def whole_run(self) -> tuple[Step, Float64Array]:
        """The arrays of all steps, (S, 1, A), and of the books after each, (S, 1, 4), for a kernel that fills them itself."""
        return self._steps, self._books[1:]

    def close_run(self) -> None:
        """All steps were filled."""
        self._row = len(self._books) - 1

    def ledger(self) -> Ledger:
        """What was recorded so far."""
        rows, start = self._row, self._start
        found = attribute(Step._make(field[:rows, 0] for field in self._steps), self._market, start, self._accounts.asset_EA[0])
        return Ledger(
            start=start,
            ts_ns=self._market.ts_ns[start : start + rows + 1],
            steps=found.steps,
            equity=self._books[: rows + 1, 0, 1].copy(),
            cash=self._books[: rows + 1, 0, 0].copy(),
            peak=self._books[: rows + 1, 0, 2].copy(),
            guard_state=self._books[1 : rows + 1, 0, 3].astype(np.int8),
            liquidated=bool(self._accounts.done_E[0]),
            proxy=self._market.proxy[start + 1 : start + rows + 1][:, self._accounts.asset_EA[0]],
            currency_pnl=found.currency_pnl,
            conversion=found.conversion,
        )

    def _book(self) -> tuple[float, float, float, float]:
        accounts = self._accounts
        return float(accounts.cash_E[0]), float(accounts.equity_E[0]), float(accounts.peak_E[0]), float(accounts.guard_E[0])


def _opened(values: Float64Array) -> Float64Array:
    return np.concatenate((np.zeros(1), values))


def _sum(values: Float64Array, first: Int64Array) -> Float64Array:
    return np.add.reduceat(values, first) if first.size else np.zeros(0)
