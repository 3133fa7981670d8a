"""Market rows enter the first layer once, however many samples see them.

A sample is a row of the market's table and an own state. The product of weights and market row is made for every distinct
row; the own state's is added, sample by sample, by the kernel that takes the activation. Backward the same: gradients are
summed by row, then there is one product with the rows.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from plusultra_core.arrays import Float32Array, Int64Array
from plusultra_core.rl.learning import kernels

LEAST_SAVED = 16.0
"""Columns that a sample must be spared, on average, before looking up pays: what its own kernels cost beyond a plain product."""
LEAST_ROWS = 4
"""Below this a matrix product takes another way and rounds otherwise."""

Multiply = Callable[[Float32Array, Int64Array, Float32Array], None]


class Market(NamedTuple):
    """What the samples of a rollout saw of the market. Shapes  table (R, F), row (D,) of the table, place (B,) in `row`."""

    table_RF: Float32Array
    row_D: Int64Array
    place_B: Int64Array

    def parts(self, num_parts: int, rng: np.random.Generator) -> list[Int64Array]:
        """Samples in parts of random rows, those of a row in one part and side by side: each row is multiplied once an epoch."""
        order_B = np.argsort(self.place_B, kind="stable")
        first_D = np.concatenate(([0], np.cumsum(np.bincount(self.place_B, minlength=self.row_D.size))))
        found = []
        for part_D in np.array_split(rng.permutation(self.row_D.size), num_parts):
            index_M: Int64Array = np.empty(int((first_D[part_D + 1] - first_D[part_D]).sum()), dtype=np.int64)
            kernels.ranges(part_D, first_D, order_B, index_M)
            found.append(index_M)
        return found


def pays(num_rows: int, num_samples: int, num_columns: int) -> bool:
    """Whether looking up is faster than multiplying, where samples fall on the rows at random."""
    distinct = num_rows * -np.expm1(-num_samples / num_rows)
    return bool(num_columns * (1.0 - distinct / num_samples) >= LEAST_SAVED)


def market_of(table_RF: Float32Array, row_B: Int64Array) -> Market:
    """The distinct rows among those of the samples, in the order in which they were met."""
    slot_R: Int64Array = np.full(len(table_RF), -1, dtype=np.int64)
    fresh_B: Int64Array = np.empty(row_B.size, dtype=np.int64)
    num = kernels.meet(row_B, slot_R, 0, fresh_B)
    return Market(table_RF, fresh_B[:num].copy(), slot_R[row_B])


class Lookup:
    """Products of market rows with the first layer, kept while the weights stand still."""

    def __init__(self, table_RF: Float32Array, most: int, num_units: int) -> None:
        self.table_RF = table_RF
        self._slot_R: Int64Array = np.full(len(table_RF), -1, dtype=np.int64)
        self._z_DW: Float32Array = np.empty((min(most, len(table_RF)) + LEAST_ROWS, num_units), dtype=np.float32)
        self._num = 0

    def places(self, row_M: Int64Array, multiply: Multiply) -> tuple[Float32Array, Int64Array]:
        """Products so far, and where among them each row's stands; rows not met before are multiplied."""
        fresh_M: Int64Array = np.zeros(row_M.size + LEAST_ROWS, dtype=np.int64)
        num = kernels.meet(row_M, self._slot_R, self._num, fresh_M)
        if num:
            padded = max(num, LEAST_ROWS)
            multiply(self.table_RF, fresh_M[:padded], self._z_DW[self._num : self._num + padded])
            self._num += num
        return self._z_DW, self._slot_R[row_M]
