"""Panels that regimes are tested on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.regimes.build import RegimesConfig


@pytest.fixture(scope="session")
def make_features() -> Callable[..., pl.DataFrame]:
    """Random features of a class, persistent in time, with gaps, late starts and missing values, and the close beside them."""

    def make(seed: int = 0, num_symbols: int = 5, num_times: int = 120, gap_share: float = 0.1, late: bool = False) -> pl.DataFrame:
        rng = np.random.default_rng(seed)
        frames = []
        for n in range(num_symbols):
            place = np.flatnonzero((rng.random(num_times) >= gap_share) & (np.arange(num_times) >= 10 * (n % 3)))
            ts_ns = (16_000 + place) * NS_PER_DAY
            known_ns = ts_ns + (rng.integers(0, 3, place.size) * (NS_PER_DAY // 8) if late else 0)
            values = {name: np.cumsum(rng.standard_normal(place.size)) * 0.3 for name in ("vol_ewma", "amihud", "ret_long")}
            frame = pl.DataFrame({"symbol": [f"S{n}"] * place.size, "ts_ns": ts_ns, "known_ns": known_ns, **values})
            holes = [pl.when(pl.Series(rng.random(place.size) > 0.05)).then(pl.col(name)).alias(name) for name in values]
            spread = np.where(np.arange(place.size) // 25 % 2, 0.03, 0.008)
            holes.append(pl.Series("close_adj", 50 * np.exp(np.cumsum(spread * rng.standard_normal(place.size)))))
            frames.append(frame.with_columns(holes))
        return pl.concat(frames)

    return make


@pytest.fixture(scope="session")
def smoke(root: Path) -> RegimesConfig:
    """Regimes as the smoke profile builds them."""
    return config.load(RegimesConfig, root / "configs" / "smoke" / "regimes.yaml")
