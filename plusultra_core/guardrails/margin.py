"""The rulebook within what a market lends: what is asked for in a cash account leaves room, and nothing is sold that is not held."""

from dataclasses import replace

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.market import MarginConfig


def within_margin(guard: GuardrailsConfig, margin: MarginConfig) -> GuardrailsConfig:
    """The limits of an account in this market; on margin they are the desk's own, and fills are bounded by what is lent."""
    if margin.account == "margin":
        return guard
    return replace(guard, max_gross=min(guard.max_gross, 1.0 - margin.reserve_frac))


def without_shorts(request: Float64Array, margin: MarginConfig) -> Float64Array:
    """Requested weights of any shape; what would be sold short where nothing can be is 0.

    NaN     stays: keep what is held. What is not finite stays too: the rulebook asks for nothing then, and nothing is sold for it.
    """
    return request if margin.shorts else np.where(np.isneginf(request), request, np.maximum(request, 0.0))
