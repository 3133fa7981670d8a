"""Side columns of some symbols at a time: none is held of all bars."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.features.beside import joins
from plusultra_core.features.beside.joins import MONEY, Keys, Rows
from plusultra_core.features.indicators import place_of_times


@dataclass(frozen=True, slots=True)
class Own:
    """A series of every symbol, and how old its values may grow."""

    rows: Rows
    limit_ns: int

    def of(self, symbols: slice, at: Keys) -> Float64Array:
        """What counts at the keys of some symbols."""
        starts = self.rows.starts[symbols.start : symbols.stop + 1]
        some = slice(int(starts[0]), int(starts[-1]))
        expires_ns = self.rows.expires_ns[some] if self.rows.expires_ns.size else self.rows.expires_ns
        mine = Rows(starts - starts[0], self.rows.ts_ns[some], self.rows.known_ns[some], expires_ns, self.rows.value[some])
        return joins.take(mine.value, joins.newest(at, mine, self.limit_ns))


Part: TypeAlias = Own | Float64Array
"""A series of every symbol, or one value for each moment."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What the side columns of some bars are made of."""

    keys: Keys
    moments_ns: Int64Array
    """Every known_ns of the keys, rising: what no symbol owns has one value a moment."""
    parts: Mapping[str, Sequence[Part]]
    """Of each column what it is, own series or values at the moments, first come first served; nothing where the dump has none."""
    money: Float64Array

    def some(self, symbols: slice, rows: slice) -> "SomeSides":
        """Columns of some symbols."""
        return SomeSides(self, symbols, rows)


class SomeSides(dict[str, Float64Array]):
    """Side columns of some symbols, each made when it is asked for and kept until it is cleared."""

    def __init__(self, sides: Sides, symbols: slice, rows: slice) -> None:
        starts = sides.keys.starts[symbols.start : symbols.stop + 1]
        self._sides, self._symbols, self._rows = sides, symbols, rows
        self._at = Keys(sides.keys.symbols, starts - starts[0], sides.keys.known_ns[rows])
        self._moment: Int64Array | None = None

    def __missing__(self, name: str) -> Float64Array:
        self[name] = value = np.ascontiguousarray(self._sides.money[self._rows]) if name == MONEY else self._made(name)
        return value

    def _made(self, name: str) -> Float64Array:
        found: Float64Array | None = None
        for part in self._sides.parts[name]:
            if isinstance(part, Own):
                value = part.of(self._symbols, self._at)
            else:
                if self._moment is None:
                    self._moment = place_of_times(self._at.known_ns, self._at.starts, self._sides.moments_ns)
                value = part[self._moment]
            found = value if found is None else joins.fill(found, value)
        return np.full(self._at.known_ns.size, np.nan) if found is None else found
