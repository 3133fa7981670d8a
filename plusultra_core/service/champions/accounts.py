"""The account of a request as the simulator holds it, so that what the backtest calls can be asked at the desk: policy, mean-variance."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.errors import ArtifactError
from plusultra_core.guardrails.limits import STATES, GuardrailsConfig
from plusultra_core.guardrails.margin import without_shorts
from plusultra_core.inference.decide import PolicyDesk
from plusultra_core.inference.portfolios.rules import MeanVarianceConfig, mean_variance
from plusultra_core.inference.strategies import LEVELS
from plusultra_core.models.bundle import Bundle
from plusultra_core.service.state import Books, Held, Slot
from plusultra_core.simulation.engine import Environment
from plusultra_core.simulation.records import Step, empty_step
from plusultra_core.windows.panel import Panel

MEAN_VARIANCE = "mean_variance"

Wish = Callable[[Mapping[str, Held], Books], Float64Array]
"""Holdings and account -> target weights of the panel's symbols before the guardrails; NaN: keep what is held."""


class Seat(NamedTuple):
    """The one account of an environment, at the close of the panel's newest bar."""

    env: Environment
    last: Step
    symbols: tuple[str, ...]
    t: int

    def sit(self, held: Mapping[str, Held], books: Books) -> Int64Array:
        """Write the account of a request down; the bar of its start comes back. Shapes  result (1,).

        Units   weights become quantities at the newest close, money stays in account currency. What a request leaves out is 0.
        """
        accounts, equity = self.env.accounts, float(books.equity_ccy or 0.0)
        accounts.equity_E[0], accounts.peak_E[0] = equity, books.peak_ccy or equity
        accounts.capital_E[0] = equity if books.capital_ccy is None else books.capital_ccy
        accounts.guard_E[0] = next(code for code, name in STATES.items() if name == books.state)
        mark_A = accounts.mark_EA[0]
        for a, symbol in enumerate(self.symbols):
            slot = books.slots.get(symbol, _EMPTY)
            weight = (held[symbol].weight or 0.0) if symbol in held else 0.0
            accounts.weight_EA[0, a] = weight
            per_weight = equity / mark_A[a] if mark_A[a] > 0 else 0.0
            accounts.position_EA[0, a] = weight * per_weight
            accounts.working_EA[0, a] = slot.working_weight * per_weight
            self.last.fill[0, a] = slot.last_fill_weight * per_weight
            accounts.pnl_EA[0, a], accounts.pnl_peak_EA[0, a] = slot.pnl_ccy, slot.pnl_peak_ccy
        return np.array([self.t - (books.age_bars or 0)], dtype=np.int64)


_EMPTY = Slot(0.0, 0.0, 0.0, 0.0)


def take_seat(env: Environment, panel: Panel, close_A: Float64Array) -> Seat:
    """The environment's account moved to the panel's newest bar, where no step is left to take."""
    t = len(panel.ts_ns_T) - 1
    env.accounts.t_E[0] = t
    env.accounts.mark_EA[0] = close_A
    return Seat(env, empty_step(env.accounts.asset_EA.shape), panel.symbols, t)


def policy_wish(bundle: Bundle, panel: Panel, seat: Seat) -> Wish:
    """The policy on every symbol at once, without exploration.

    Raises  ArtifactError when the bundle is no policy, does not fit the panel, or remembers: one request does not tell it what it saw.
    """
    for name in ("features", "tokens", "horizons"):
        if tuple(getattr(bundle, name)) != tuple(getattr(panel, name)):
            raise ArtifactError(f"served policy: its {name} are not those of the panel; serve windows of the configs it was trained with")
    desk = PolicyDesk(bundle, panel, (seat.t, seat.t + 1))
    if desk.policy.has_memory:
        raise ArtifactError("served policy: it remembers bars that a request does not tell; train one with memory kind none to serve it")

    def wish(held: Mapping[str, Held], books: Books) -> Float64Array:
        start_E = seat.sit(held, books)
        return without_shorts(desk.decide(seat.env.accounts, seat.last, start_E)[0], seat.env.margin)

    return wish


def mean_variance_wish(
    quantiles_NQ: Float64Array, levels: tuple[float, ...], seat: Seat, horizon_bars: int, guard: GuardrailsConfig, cfg: MeanVarianceConfig
) -> Wish:
    """The best trade by the forecasts of the newest bar, as the backtest finds it.

    Raises  ArtifactError when the bundle forecasts other quantiles.
    """
    if tuple(levels) != LEVELS:
        raise ArtifactError(f"served bundle: expected the quantile levels {LEVELS}, found {tuple(levels)}; train again")
    decide = mean_variance(quantiles_NQ[None], seat.t, horizon_bars, seat.env.market, guard, cfg)

    def wish(held: Mapping[str, Held], books: Books) -> Float64Array:
        seat.sit(held, books)
        return without_shorts(decide(seat.t, seat.env, seat.last)[0], seat.env.margin)

    return wish
