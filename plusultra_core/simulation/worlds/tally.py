"""What is kept of an account that was carried through a world: a few numbers, and some points of its path."""

from typing import Any

import numpy as np
from numba import njit

from plusultra_core.arrays import Float32Array, Float64Array, Int64Array
from plusultra_core.simulation.liquidity.currency import without
from plusultra_core.simulation.records import COSTS, Step

NUMBERS = ("ret", "max_drawdown", "sharpe_bar", "liquidated", "halted")
"""ret: net, over the span; max_drawdown: from the peak at closes, capital included; sharpe_bar: mean over deviation of the returns of
bars, not a year's; liquidated, halted: 1 where the account was closed by force, or by the rulebook."""
TERMS = ("price_pnl", *COSTS, "turnover")
"""Sums over the span, in parts of the capital; turnover: value bought and sold."""


class Tally:
    """Running numbers of E accounts."""

    def __init__(self, capital_ccy: float, num_accounts: int, path_steps_P: Int64Array) -> None:
        self.capital_ccy = capital_ccy
        self.steps = 0
        self.equity_E: Float64Array = np.full(num_accounts, float(capital_ccy))
        self.moments_3E: Float64Array = np.zeros((3, num_accounts))
        self.state_E: Float64Array = np.zeros(num_accounts)
        self.terms_EK: Float64Array = np.zeros((num_accounts, len(TERMS)))
        self.path_EP: Float32Array = np.ones((num_accounts, path_steps_P.size), dtype=np.float32)
        self._path_steps_P = path_steps_P
        self._held_EA: Float64Array | float = 0.0

    def add_books(self, books_SE4: Float64Array) -> None:
        """The books of some steps: cash, equity, peak, state after each."""
        add_books(books_SE4, self.equity_E, self.moments_3E, self.state_E)
        for place in np.flatnonzero((self._path_steps_P > self.steps) & (self._path_steps_P <= self.steps + len(books_SE4))).tolist():
            equity_E = books_SE4[self._path_steps_P[place] - self.steps - 1, :, 1]
            self.path_EP[:, place] = (equity_E / self.capital_ccy).astype(np.float32)
        self.steps += len(books_SE4)

    def add_step(self, out: Step, given_SEA: Float64Array | None = None) -> None:
        """What some steps did, (S, E, A) each; `given_SEA` is what of a unit's change is given back, as a ledger leaves it out."""
        if given_SEA is not None:
            before_SEA = np.concatenate((np.broadcast_to(self._held_EA, (1, *given_SEA.shape[1:])), out.position[:-1]))
            self._held_EA = out.position[-1].copy()
            out = without(out, before_SEA, given_SEA)
        for k, name in enumerate(TERMS[:-1]):
            add_term(getattr(out, name), self.terms_EK[:, k])
        add_traded(out.fill, out.price, self.terms_EK[:, -1])

    def numbers(self, done_E: Any) -> dict[str, Float64Array]:
        """The numbers of every account. Shapes  (E,) each."""
        mean_E = self.moments_3E[0] / self.steps
        variance_E = (self.moments_3E[1] - self.steps * mean_E**2) / max(self.steps - 1, 1)
        deviation_E = np.sqrt(np.maximum(variance_E, 0.0))
        still_E = deviation_E <= 1e-12
        return {
            "ret": self.equity_E / self.capital_ccy - 1.0,
            "max_drawdown": self.moments_3E[2].copy(),
            "sharpe_bar": np.where(still_E, 0.0, mean_E / np.where(still_E, 1.0, deviation_E)),
            "liquidated": done_E.astype(np.float64),
            "halted": (self.state_E == 2.0).astype(np.float64),
        }

    def terms(self) -> dict[str, Float64Array]:
        """Cost terms and turnover of every account, in parts of its capital. Shapes  (E,) each."""
        return {name: self.terms_EK[:, k] / self.capital_ccy for k, name in enumerate(TERMS)}


@njit(cache=True, error_model="numpy", nogil=True)
def add_books(books_SE4: Float64Array, equity_E: Float64Array, moments_3E: Float64Array, state_E: Float64Array) -> None:
    """Returns into their sum and sum of squares, the deepest drawdown, the last equity, the worst state; step by step."""
    for s in range(books_SE4.shape[0]):
        for e in range(equity_E.size):
            before, equity, peak = equity_E[e], books_SE4[s, e, 1], books_SE4[s, e, 2]
            ret = equity / before - 1.0 if before > 0.0 else 0.0
            moments_3E[0, e] += ret
            moments_3E[1, e] += ret * ret
            moments_3E[2, e] = max(moments_3E[2, e], 1.0 - equity / peak)
            equity_E[e] = equity
            state_E[e] = max(state_E[e], books_SE4[s, e, 3])


@njit(cache=True, error_model="numpy", nogil=True)
def add_term(values_SEA: Float64Array, sum_E: Float64Array) -> None:
    """Add one term of every step and slot to its account, in the order of the steps."""
    for s in range(values_SEA.shape[0]):
        for e in range(values_SEA.shape[1]):
            total = 0.0
            for a in range(values_SEA.shape[2]):
                total += values_SEA[s, e, a]
            sum_E[e] += total


@njit(cache=True, error_model="numpy", nogil=True)
def add_traded(fill_SEA: Float64Array, price_SEA: Float64Array, sum_E: Float64Array) -> None:
    """Add the value bought and sold."""
    for s in range(fill_SEA.shape[0]):
        for e in range(fill_SEA.shape[1]):
            total = 0.0
            for a in range(fill_SEA.shape[2]):
                total += abs(fill_SEA[s, e, a] * price_SEA[s, e, a])
            sum_E[e] += total
