"""Kernels that are asked for the last rows alone say of them, to the last bit, what they say of all."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.features import kernels

KERNELS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "rolling_mean": (kernels.rolling_mean, (19, 4)),
    "rolling_mean_std": (kernels.rolling_mean_std, (40, 9)),
    "rolling_max": (kernels.rolling_max, (7, 2)),
    "rolling_shape": (kernels.rolling_shape, (21, 5)),
    "band_energy": (kernels.band_energy, (12, 2, 4)),
}


@pytest.mark.parametrize("name", KERNELS)
@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    holes=st.sampled_from([0.0, 0.1, 0.7]),
    level=st.sampled_from([0.0, 1e6]),
)
@settings(max_examples=30, deadline=None)
def test_rows_from_since_on_are_those_of_all_rows(name: str, seed: int, lengths: list[int], holes: float, level: float) -> None:
    kernel, sizes = KERNELS[name]
    rng = np.random.default_rng(seed)
    starts = np.append(0, np.cumsum(lengths))
    x = np.where(rng.random(starts[-1]) < holes, np.nan, level + rng.standard_normal(starts[-1]))
    since = np.array([rng.integers(0, num + 1) for num in lengths])
    wanted = np.arange(starts[-1]) >= np.repeat(starts[:-1] + since, lengths)
    for run in (kernel, getattr(kernel, "py_func", kernel)):
        some, whole = (np.atleast_2d(np.asarray(found)) for found in (run(x, starts, *sizes, since), kernel(x, starts, *sizes)))
        np.testing.assert_array_equal(some[:, wanted], whole[:, wanted])
