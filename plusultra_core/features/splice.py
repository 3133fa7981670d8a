"""Kernels over two histories of the same symbols: where they agree, and the one put together from both."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from plusultra_core.arrays import BoolArray, Int64Array

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit


@njit(cache=True)
def mark_changed(
    old: Int64Array, old_first: Int64Array, new: Int64Array, new_first: Int64Array, num_rows: Int64Array, same: BoolArray
) -> None:
    """Clear `same` of each symbol whose `num_rows` rows from old_first are not, bit for bit, those from new_first."""
    for s in range(num_rows.size):
        if same[s]:
            for i in range(num_rows[s]):
                if old[old_first[s] + i] != new[new_first[s] + i]:
                    same[s] = False
                    break
