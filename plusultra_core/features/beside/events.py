"""Dated events of the whole market: how old the news is, and how large."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR
from plusultra_core.errors import ConfigError
from plusultra_core.features.arrays import kept
from plusultra_core.features.beside import joins
from plusultra_core.features.beside.joins import Keys, Rows

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit

_EVENT = re.compile(r"(.*)\.([^.]*)")  # <event>.<part>; an event, or its several keys, may hold dots itself


@dataclass(frozen=True, kw_only=True, slots=True)
class MacroConfig:
    """Which dated events count, and how surprise is scaled."""

    table: str
    events: tuple[str, ...]
    """Event names; `*` for all."""
    max_staleness_hours: float
    min_count: int
    """Changes of an event that must be known before one is called large or small."""

    def __post_init__(self) -> None:
        if self.max_staleness_hours <= 0 or self.min_count < 2:
            raise ConfigError(f"macro: expected max_staleness_hours > 0 and min_count >= 2, found {self}")


def news(keys: Keys, side: pl.DataFrame, cfg: MacroConfig) -> tuple[Float64Array, Float64Array]:
    """Age in days of the newest known event, and its change in root mean squares of that event's past changes.

    A change is counted once for each time of the event, when it is news, and is from what was said last of the time
    before. A revision of the newest one is held against the same, and against the changes counted so far.
    """
    rows, event, part = events_of(side, cfg)
    is_actual, counts = part == "actual", (part == "actual") | (part == "previous")
    if not counts.any():
        nothing = np.broadcast_to(np.nan, keys.known_ns.size)  # takes no memory
        return nothing, nothing
    ts_ns, known_ns = (rows.get_column(name).to_numpy()[counts] for name in ("ts_ns", "known_ns"))
    value = rows.get_column("value").cast(pl.Float64).to_numpy()[counts]
    event, is_actual = event[counts], is_actual[counts]
    order = np.lexsort((is_actual, ts_ns, known_ns, event))  # what was before, then what is
    surprise = surprises(event[order], ts_ns[order], known_ns[order], is_actual[order], value[order], cfg.min_count)
    told = np.lexsort((event[order], ts_ns[order], known_ns[order]))
    told = told[is_actual[order][told]]
    known_ns, ts_ns = known_ns[order][told], ts_ns[order][told]
    walked = Rows(np.array([0, told.size]), ts_ns, known_ns, np.zeros(0, dtype=np.int64), surprise[told])
    place = joins.newest(keys, walked, int(cfg.max_staleness_hours * NS_PER_HOUR))
    age = joins.take(walked.known_ns.astype(np.float64), place)
    np.subtract(keys.known_ns, age, out=age)
    age /= NS_PER_DAY
    return age, joins.take(walked.value, place)


def events_of(side: pl.DataFrame, cfg: MacroConfig) -> tuple[pl.DataFrame, Int64Array, NDArray[np.object_]]:
    """Rows of the events that count, the place of each one's event among their names, its part; a symbol's own are nobody else's news."""
    rows = _of_nobody(side)
    rows = kept(rows, rows.get_column("table") == cfg.table)
    if rows.get_column("value").null_count():
        rows = kept(rows, rows.get_column("value").is_not_null())
    fields = sorted(set(rows.get_column("field").to_list()))
    split = [found.groups() if (found := _EVENT.fullmatch(field)) else ("", "") for field in fields]
    wanted = np.array(["*" in cfg.events or event in cfg.events for event, _ in split], dtype=np.bool_)
    wanted &= np.array([bool(part) for _, part in split], dtype=np.bool_)
    number = {event: place for place, event in enumerate(sorted({event for event, _ in split}))}
    code = rows.get_column("field").cast(pl.Enum(fields)).to_physical().cast(pl.Int64).to_numpy()
    if not wanted.all():
        rows, code = kept(rows, pl.Series(wanted[code])), code[wanted[code]]
    events, parts = np.array([number[event] for event, _ in split], dtype=np.int64), np.array([part for _, part in split], dtype=np.object_)
    return rows, events[code], parts[code]


def _of_nobody(side: pl.DataFrame) -> pl.DataFrame:
    """Rows without symbol, which mostly come first."""
    num = side.get_column("symbol").null_count()
    first = side.head(num)
    return first if first.get_column("symbol").null_count() == num else kept(side, side.get_column("symbol").is_null())


@njit(cache=True)
def surprises(
    event: Int64Array, ts_ns: Int64Array, known_ns: Int64Array, is_actual: BoolArray, value: Float64Array, min_count: int
) -> Float64Array:
    """Change of each actual value in root mean squares of the event's changes so far; NaN at other rows.

    Rows lie by event, known_ns, ts_ns; what they call the value before stands before the value. Without it that is what stood
    last when the row's time was news.
    """
    out = np.full(value.size, math.nan)
    newest, stood, last, num, total, told = 0, math.nan, math.nan, 0, 0.0, math.nan
    fresh = True
    for i in range(value.size):
        if i > 0 and event[i] != event[i - 1]:
            stood, last, num, total, fresh = math.nan, math.nan, 0, 0.0, True
        if not is_actual[i]:
            told = value[i]
            continue
        if i == 0 or is_actual[i - 1] or event[i] != event[i - 1] or known_ns[i] != known_ns[i - 1] or ts_ns[i] != ts_ns[i - 1]:
            told = math.nan
        news = fresh or ts_ns[i] > newest
        newest = ts_ns[i] if news else newest
        if news and not fresh:
            last = stood
        if ts_ns[i] >= newest:
            stood = value[i]
        fresh = False
        change = value[i] - (last if math.isnan(told) else told)
        if news and not math.isnan(change):
            num += 1
            total += change * change
        typical = math.sqrt(total / num) if num >= max(1, min_count) else math.nan
        if typical > 0.0:
            out[i] = change / typical
    return out
