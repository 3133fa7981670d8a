"""The rulebook for one account of the live desk: the same kernel, with names."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from plusultra_core.errors import GuardrailBreach
from plusultra_core.guardrails.kernels import clamp_targets
from plusultra_core.guardrails.limits import GUARD_REASONS, HALTED, NOT_FINITE, STATES, GuardrailsConfig


@dataclass(frozen=True, slots=True)
class Holding:
    """What is known about one symbol now; a missing number is None or NaN and fails closed."""

    weight: float | None
    fresh: bool
    adv_ccy: float | None


@dataclass(frozen=True, slots=True)
class Checked:
    """What may be asked for. A symbol whose target is None keeps what it holds."""

    targets: dict[str, float | None]
    reasons: dict[str, str]
    state: str


def check_targets(
    targets: Mapping[str, float | None],
    holdings: Mapping[str, Holding],
    equity_ccy: float | None,
    peak_ccy: float | None,
    state: str,
    cfg: GuardrailsConfig,
) -> Checked:
    """Targets of the desk through the rulebook of the simulator.

    Units   targets and weights are signed fractions of equity; money in account currency.
    NaN     None or NaN anywhere fails closed: nothing new passes, what reduces does. Equity that is known and all gone is a drawdown of
            everything, not a missing number: the account is halted.
    Raises  GuardrailBreach for an unknown state, or a target of a symbol that has no holding row.
    """
    codes = {name: code for code, name in STATES.items()}
    if state not in codes:
        raise GuardrailBreach(f"state: expected one of {sorted(codes)}, found {state!r}")
    if missing := sorted(set(targets) - set(holdings)):
        raise GuardrailBreach(f"holdings: no row for {missing[0]!r}; pass one row a symbol, weight 0.0 where nothing is held")
    symbols = sorted(holdings)
    request = np.array([[_number(targets.get(name)) for name in symbols]], dtype=np.float64)
    weight = np.array([[_number(holdings[name].weight) for name in symbols]], dtype=np.float64)
    unknown = np.isnan(weight)
    request[unknown] = np.nan
    weight[unknown] = 0.0
    fresh = np.array([[holdings[name].fresh for name in symbols]], dtype=np.bool_)
    adv = np.array([[_number(holdings[name].adv_ccy) for name in symbols]], dtype=np.float64)
    equity, peak = _number(equity_ccy), _number(peak_ccy)
    is_lost = -math.inf < equity <= 0.0 < peak < math.inf
    state_E = np.array([HALTED if is_lost else codes[state]], dtype=np.int8)
    allowed = np.full_like(request, np.nan)
    reason = np.zeros(request.shape, dtype=np.int8)
    equity_E, peak_E = np.array([equity], dtype=np.float64), np.array([peak], dtype=np.float64)
    clamp_targets(request, weight, fresh, adv, equity_E, peak_E, cfg.limits(), state_E, allowed, reason)
    reason[unknown] = NOT_FINITE
    allowed[unknown] = np.nan
    return Checked(
        targets={name: None if np.isnan(value) else float(value) for name, value in zip(symbols, allowed[0], strict=True)},
        reasons={name: GUARD_REASONS[int(code)] for name, code in zip(symbols, reason[0], strict=True)},
        state=STATES[int(state_E[0])],
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
