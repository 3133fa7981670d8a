"""Kernels of single indicators, over symbols laid end to end as in kernels.py.

None carries a state: row i reads the bar, the bar before, or rows i - window + 1 to i, and counts and orders, not sums.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit

_DAY_NS, _MINUTE_NS = 86_400_000_000_000, 60_000_000_000


@njit(cache=True)
def ranges(high: Float64Array, low: Float64Array, close: Float64Array, starts: Int64Array) -> tuple[Float64Array, Float64Array]:
    """True range and buying pressure: max(high, close before) and the close, each less min(low, close before).

    On a symbol's first bar there is no close before; NaN where high or low is.
    """
    spread = np.full(close.size, np.nan)
    bought = np.full(close.size, np.nan)
    for s in range(starts.size - 1):
        for i in range(starts[s], starts[s + 1]):
            top, bottom = high[i], low[i]
            if i > starts[s] and not math.isnan(top - bottom):
                before = close[i - 1]
                top = before if before > top else top
                bottom = before if before < bottom else bottom
            spread[i] = top - bottom
            bought[i] = close[i] - bottom if not math.isnan(top) else np.nan
    return spread, bought


@njit(cache=True)
def directional_moves(high: Float64Array, low: Float64Array, starts: Int64Array) -> tuple[Float64Array, Float64Array]:
    """Wilder's +DM and -DM: the larger of the rise of the high and the fall of the low, the other 0.

    NaN     a symbol's first bar, and where high or low of the bar or the one before is missing.
    """
    plus = np.full(high.size, np.nan)
    minus = np.full(high.size, np.nan)
    for s in range(starts.size - 1):
        for i in range(starts[s] + 1, starts[s + 1]):
            rise, fall = high[i] - high[i - 1], low[i - 1] - low[i]
            if not math.isnan(rise + fall):
                plus[i] = rise if rise > fall and rise > 0.0 else 0.0
                minus[i] = fall if fall > rise and fall > 0.0 else 0.0
    return plus, minus


@njit(cache=True)
def bars_since_max(x: Float64Array, starts: Int64Array, window: int, min_count: int) -> Float64Array:
    """Rows since the largest of the last `window` rows, the newest of equals; missing rows count as time, not as values."""
    out = np.full(x.size, np.nan)
    queue = np.empty(window, dtype=np.int64)  # rows whose values fall, a ring
    for s in range(starts.size - 1):
        head, size, count = 0, 0, 0
        first = starts[s]
        for i in range(first, starts[s + 1]):
            if i - window >= first and not math.isnan(x[i - window]):
                count -= 1
            if size > 0 and queue[head] <= i - window:
                head = (head + 1) % window
                size -= 1
            if not math.isnan(x[i]):
                count += 1
                while size > 0 and x[queue[(head + size - 1) % window]] <= x[i]:
                    size -= 1
                queue[(head + size) % window] = i
                size += 1
            if count >= min_count:
                out[i] = i - queue[head]
    return out


@njit(cache=True)
def accumulation(high: Float64Array, low: Float64Array, close: Float64Array, volume: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Volume times the place of the close in the bar, from -1 at the low to 1 at the high, and the volume.

    A bar without range has place 0. NaN in both where any of the four is missing.
    """
    flow = np.full(close.size, np.nan)
    weight = np.full(close.size, np.nan)
    for i in range(close.size):
        spread = high[i] - low[i]
        place = 0.0 if spread == 0.0 else (2.0 * close[i] - high[i] - low[i]) / spread
        if spread >= 0.0 and not math.isnan(place * volume[i]):
            flow[i] = place * volume[i]
            weight[i] = volume[i]
    return flow, weight


@njit(cache=True)
def money_flow(typical: Float64Array, volume: Float64Array, starts: Int64Array) -> tuple[Float64Array, Float64Array]:
    """Typical price times volume, with the sign of the change of the price (0 where it stands), and its size.

    NaN     a symbol's first bar, and where price, the price before or volume is missing.
    """
    signed = np.full(typical.size, np.nan)
    size = np.full(typical.size, np.nan)
    for s in range(starts.size - 1):
        for i in range(starts[s] + 1, starts[s + 1]):
            change = typical[i] - typical[i - 1]
            flow = typical[i] * volume[i]
            if not math.isnan(change + flow):
                signed[i] = flow if change > 0.0 else (-flow if change < 0.0 else 0.0)
                size[i] = abs(signed[i])
    return signed, size


@njit(cache=True)
def corwin_schultz(high: Float64Array, low: Float64Array, close: Float64Array, starts: Int64Array) -> Float64Array:
    """Relative spread from the ranges of two bars in a row, 0 where the estimate is below it; high, low, close in logs.

    The second bar is moved by the gap where the close before lies outside of it.
    Source  Corwin & Schultz (2012), J. Finance 67, equations 14 and 18, with their adjustment for overnight returns.
    """
    out = np.full(close.size, np.nan)
    scale = 3.0 - 2.0 * math.sqrt(2.0)
    for s in range(starts.size - 1):
        for i in range(starts[s] + 1, starts[s + 1]):
            gap = max(close[i - 1] - high[i], 0.0) - max(low[i] - close[i - 1], 0.0)
            one, two = high[i - 1] - low[i - 1], high[i] - low[i]
            both = max(high[i - 1], high[i] + gap) - min(low[i - 1], low[i] + gap)
            beta = one * one + two * two
            if not math.isnan(beta + gap):
                alpha = (math.sqrt(2.0 * beta) - math.sqrt(beta) - math.sqrt(scale) * both) / scale
                out[i] = 2.0 * math.tanh(0.5 * alpha) if alpha > 0.0 else 0.0
    return out


@njit(cache=True)
def level_entropy(x: Float64Array, starts: Int64Array, window: int, min_count: int) -> Float64Array:
    """Entropy in [0, 1] of the last `window` rows sorted into five levels: borders at -1.5, -.5, .5 and 1.5."""
    out = np.full(x.size, np.nan)
    terms = np.zeros(window + 1)
    for k in range(2, window + 1):
        terms[k] = k * math.log(k)
    counts = np.zeros(5, dtype=np.int64)
    levels = np.empty(x.size, dtype=np.int8)
    for s in range(starts.size - 1):
        counts[:] = 0
        num, first = 0, starts[s]
        for i in range(first, starts[s + 1]):
            value = x[i]
            levels[i] = -1 if math.isnan(value) else int(value > -1.5) + int(value > -0.5) + int(value > 0.5) + int(value > 1.5)
            if levels[i] >= 0:
                counts[levels[i]] += 1
                num += 1
            if i - window >= first and levels[i - window] >= 0:
                counts[levels[i - window]] -= 1
                num -= 1
            if num >= min_count:
                total = terms[counts[0]] + terms[counts[1]] + terms[counts[2]] + terms[counts[3]] + terms[counts[4]]
                out[i] = (math.log(num) - total / num) / math.log(5.0)
    return out


@njit(cache=True)
def place_of_times(ts_ns: Int64Array, starts: Int64Array, times_ns: Int64Array) -> Int64Array:
    """Where each row's time stands among all times, which rise and hold every row's."""
    out = np.empty(ts_ns.size, dtype=np.int64)
    for s in range(starts.size - 1):
        at = 0
        for i in range(starts[s], starts[s + 1]):
            if i == starts[s]:
                at = np.searchsorted(times_ns, ts_ns[i])
            while times_ns[at] < ts_ns[i]:
                at += 1
            out[i] = at
    return out


@njit(cache=True)
def calendar_parts(local_ns: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array, Float64Array]:
    """Day of the week (Monday 0), minute of the day, day of the year (1 January 0) and what part of the month is to come.

    Shapes  local_ns (N,), wall clock as nanoseconds since 1970-01-01; four results (N,).
    Source  days to dates after Howard Hinnant, chrono-compatible low-level date algorithms.
    """
    weekday = np.empty(local_ns.size, dtype=np.int64)
    minute = np.empty(local_ns.size, dtype=np.int64)
    yearday = np.empty(local_ns.size, dtype=np.int64)
    to_come = np.empty(local_ns.size)
    for i in range(local_ns.size):
        day = local_ns[i] // _DAY_NS
        weekday[i] = (day + 3) % 7
        minute[i] = (local_ns[i] - day * _DAY_NS) // _MINUTE_NS
        since = day + 719_468  # days since 1 March of year 0
        era = since // 146_097
        of_era = since - era * 146_097
        year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
        from_march = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
        month_from_march = (5 * from_march + 2) // 153
        day_of_month = from_march - (153 * month_from_march + 2) // 5 + 1
        month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
        year = year_of_era + era * 400 + (month <= 2)
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        length = 28 + leap if month == 2 else 30 + (month + month // 8) % 2
        yearday[i] = from_march - 306 if month <= 2 else from_march + 59 + leap
        to_come[i] = (length - day_of_month) / length
    return weekday, minute, yearday, to_come
