"""A hidden Markov state of each bar: calm or storm, by the spread of returns. Fitted on the past, filtered, never smoothed.

Gaussian returns with a mean and a variance a state. The model is fitted anew at fixed bars of the symbol, by expectation
maximisation over the newest returns, starting from the model before; from that bar to the next fit the filter answers.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from plusultra_core.arrays import Float64Array, Int8Array, Int64Array

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit

_STAY = 0.95  # of the guess before the first fit
_STEEP = 600.0  # exp of more leaves the range of a double


class Fitting(NamedTuple):
    """When and how long the model is fitted."""

    window: int
    """Newest returns that a fit looks at."""
    refit: int
    """Bars from one fit to the next."""
    min_count: int
    """Returns before the first fit."""
    first_iterations: int
    """Steps of the first fit, which starts from a guess."""
    iterations: int
    """Steps of a later fit, which starts from the model before."""
    min_variance: float
    """Least variance of a state, as a share of the window's."""
    pseudo_count: float
    """Transitions added to each pair of states: none is ruled out for not having been seen."""
    stay_count: float
    """Transitions added from each state to itself: a state is a stretch of bars, not a lonely outlier."""


class Model(NamedTuple):
    """K states, by rising variance once fitted."""

    mean_K: Float64Array
    variance_K: Float64Array
    transition_KK: Float64Array
    """From row to column."""


class Pass(NamedTuple):
    """What one run over n bars says; room for it is made once."""

    density_NK: Float64Array
    """Of the bar in each state, over that in the last state."""
    belief_NK: Float64Array
    """Filtered probability of each state."""
    scale_N: Float64Array
    """Likelihood of the bar given those before, over its density in the last state."""


@njit(cache=True)
def forward(x: Float64Array, codes: tuple[int, ...], model: Model, room: Pass) -> None:
    """Filtered probability of each state at each bar, written into `room`; before the first bar all states are alike.

    Shapes  x (n,), n at most the room; one code a state.
    Looks   back only: row i of the belief rests on x[: i + 1].
    Source  Hamilton (1989), A New Approach to the Economic Analysis of Nonstationary Time Series, section 4.
    """
    num, last = len(codes), len(codes) - 1
    half, root, before = np.empty(num), np.empty(num), np.full(num, 1.0 / num)
    for k in range(num):
        half[k] = 0.5 / model.variance_K[k]
        root[k] = math.sqrt(model.variance_K[last] / model.variance_K[k])
    for i in range(x.size):
        gap = x[i] - model.mean_K[last]
        far = gap * gap * half[last]
        total = 0.0
        for k in range(num):
            density, come = 1.0, 0.0
            if k < last:
                away = x[i] - model.mean_K[k]
                density = root[k] * math.exp(min(far - away * away * half[k], _STEEP))
            for j in range(num):
                come += before[j] * model.transition_KK[j, k]
            room.density_NK[i, k] = density
            room.belief_NK[i, k] = come * density
            total += come * density
        room.scale_N[i] = total
        for k in range(num):
            before[k] = room.belief_NK[i, k] / total
            room.belief_NK[i, k] = before[k]


@njit(cache=True)
def improve(x: Float64Array, codes: tuple[int, ...], least: float, fitting: Fitting, model: Model, room: Pass) -> None:
    """One step of expectation maximisation: the model becomes a likelier one of the same bars.

    Looks   at all of x, backward too: x ends at the bar at which the fit is made.
    Source  Hamilton (1990), Analysis of time series subject to changes in regime; Rabiner (1989), section III.C.
    """
    num = len(codes)
    forward(x, codes, model, room)
    weight, total, squares = np.zeros(num), np.zeros(num), np.zeros(num)
    moves, after, ahead = np.zeros((num, num)), np.ones(num), np.empty(num)
    for i in range(x.size - 1, -1, -1):
        for k in range(num):
            share = room.belief_NK[i, k] * after[k]
            weight[k] += share
            total[k] += share * x[i]
            squares[k] += share * x[i] * x[i]
        for k in range(num):
            ahead[k] = room.density_NK[i, k] * after[k] / room.scale_N[i]
        for j in range(num):
            after[j] = 0.0
            for k in range(num):
                step = model.transition_KK[j, k] * ahead[k]
                after[j] += step
                moves[j, k] += (room.belief_NK[i - 1, j] if i > 0 else 1.0 / num) * step
    for j in range(num):
        moves[j, j] += fitting.stay_count
        leaves = moves[j].sum() + num * fitting.pseudo_count
        for k in range(num):
            model.transition_KK[j, k] = (moves[j, k] + fitting.pseudo_count) / leaves
        if weight[j] > 1.0:
            mean = total[j] / weight[j]
            model.mean_K[j] = mean
            model.variance_K[j] = max(squares[j] / weight[j] - mean * mean, least)


@njit(cache=True)
def fit(x: Float64Array, codes: tuple[int, ...], fitting: Fitting, warm: bool, model: Model, room: Pass) -> bool:
    """Fit the model to x, from itself when `warm`, else from a guess; False, and no model, where x does not vary.

    The states are put in the order of their variance, so that a name means the same after every fit.
    """
    num = len(codes)
    spread = x.var()
    if not spread > 0.0:
        return False
    if not warm:
        for k in range(num):
            model.mean_K[k] = x.mean()
            model.variance_K[k] = spread * 0.25 * 4.0 ** (2.0 * k / (num - 1))
            for j in range(num):
                model.transition_KK[k, j] = _STAY if j == k else (1.0 - _STAY) / (num - 1)
    for _ in range(fitting.iterations if warm else fitting.first_iterations):
        improve(x, codes, fitting.min_variance * spread, fitting, model, room)
    order = np.argsort(model.variance_K, kind="mergesort")
    model.mean_K[:] = model.mean_K[order]
    model.variance_K[:] = model.variance_K[order]
    model.transition_KK[:] = model.transition_KK[order][:, order]
    return True


@njit(cache=True)
def filtered_states(x: Float64Array, starts: Int64Array, codes: tuple[int, ...], fitting: Fitting) -> tuple[Int8Array, Float64Array]:
    """Likeliest state of each bar and its filtered probability.

    Shapes  x (N,) returns, symbols end to end, the first of each symbol missing; starts (S + 1,); codes (K,), by rising variance.
    Looks   back only: fits stand at bars min_count, min_count + refit, ... of the symbol and see the returns up to there.
    NaN     state 0 and probability NaN before the first fit, and until the next one where the window did not vary.
    """
    num = len(codes)
    state, prob = np.zeros(x.size, dtype=np.int8), np.full(x.size, np.nan)
    size = fitting.window + fitting.refit
    room = Pass(np.empty((size, num)), np.empty((size, num)), np.empty(size))
    model = Model(np.empty(num), np.empty(num), np.empty((num, num)))
    for s in range(starts.size - 1):
        first, last = starts[s], starts[s + 1]
        known = last < first  # false, but no constant: numba would compile fit twice
        for i in range(first + fitting.min_count, last, fitting.refit):
            low = max(first + 1, i - fitting.window + 1)
            known = fit(x[low : i + 1], codes, fitting, known, model, room)
            if not known:
                continue
            end = min(last, i + fitting.refit)
            forward(x[low:end], codes, model, room)
            for t in range(i, end):
                best = 0
                for k in range(1, num):
                    if room.belief_NK[t - low, k] > room.belief_NK[t - low, best]:
                        best = k
                state[t] = codes[best]
                prob[t] = room.belief_NK[t - low, best]
    return state, prob
