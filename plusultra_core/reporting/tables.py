"""How numbers look, and the tables that both forms of the report show."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

DASH = "–"
_PERCENT = "\u00a0%"

Number = float | int | None
Format = Callable[[Number], str]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text, ready to be escaped. `marks` are rows to be set off."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    """So many columns from the left hold words; the others are numbers and stand to the right."""
    marks: frozenset[int] = field(default_factory=frozenset)
    note: str = ""


def number(value: Number, digits: int = 2) -> str:
    """`1,234.50`; a dash for None."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def small(value: Number) -> str:
    """Four decimals, for scores."""
    return number(value, 4)


def percent(value: Number, digits: int = 1) -> str:
    """`12.3 %` of a fraction, on one line; a dash for None."""
    return DASH if value is None else f"{number(100.0 * value, digits)}{_PERCENT}"


def money(value: Number) -> str:
    """Whole units of currency."""
    return number(value, 0)


def count(value: Number) -> str:
    """A whole number."""
    return number(value, 0)


def probability(value: Number) -> str:
    """Three decimals, never a bare 0 or 1."""
    if value is None or not math.isfinite(value):
        return DASH
    if value < 0.001:
        return "< 0.001"
    return "> 0.999" if value > 0.999 else number(value, 3)


def interval(values: Sequence[float] | None, form: Format) -> str:
    """`0.1 to 2.3`; a dash for None."""
    return DASH if not values else f"{form(values[0]).removesuffix(_PERCENT)} to {form(values[1])}"


def estimate(value: Number, values: Sequence[float] | None, form: Format) -> str:
    """`1.2 (0.1 to 2.3)`, without the bracket where there is no interval."""
    return f"{form(value)} ({interval(values, form)})" if values and value is not None else form(value)


def signed(value: Number, form: Format) -> str:
    """The number with its sign also when it is positive."""
    return f"+{form(value)}" if value is not None and value > 0 else form(value)


def plain(name: str) -> str:
    """`buy_and_hold` as words."""
    return name.replace("_", " ")
