"""Classes of bars that views are tested on."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.market import MarketConfig
from plusultra_core.views.build import ViewsConfig

START_NS = 1_451_682_000_000_000_000  # 2016-01-01 21:00 UTC
Make = Callable[..., pl.DataFrame]


@pytest.fixture(scope="session")
def make_class() -> Make:
    """Random closes of a class; `offset_ns` moves its bars, `late_ns` delays what is known of odd symbols."""

    def make(
        seed: int,
        symbols: tuple[str, ...],
        num_times: int = 100,
        gap_share: float = 0.0,
        offset_ns: int = 0,
        late_ns: int = 0,
        first: int = 0,
    ) -> pl.DataFrame:
        rng = np.random.default_rng(seed)
        frames = []
        for n, symbol in enumerate(symbols):
            place = np.flatnonzero(rng.random(num_times) >= gap_share)
            place = place[place >= first]
            ts_ns = START_NS + place * NS_PER_DAY + offset_ns
            close = 50 * np.exp(np.cumsum(0.02 * rng.standard_normal(place.size)))
            known_ns = ts_ns + (late_ns if n % 2 else 0)
            frames.append(pl.DataFrame({"symbol": [symbol] * place.size, "ts_ns": ts_ns, "known_ns": known_ns, "close_adj": close}))
        return pl.concat(frames).sort("symbol", "ts_ns")

    return make


@pytest.fixture(scope="session")
def features_of() -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Features with the one that views read: momentum, here a plain sum of the last five returns."""
    momentum = pl.col("close_adj").log().diff(5).over("symbol").alias("ret_long")
    return lambda bars: bars.select("symbol", "ts_ns", "known_ns", momentum)


@pytest.fixture(scope="session")
def smoke(root: Path) -> ViewsConfig:
    """Views as the smoke profile builds them."""
    return config.load(ViewsConfig, root / "configs" / "smoke" / "views.yaml")


@pytest.fixture(scope="session")
def market(root: Path) -> Callable[[str], MarketConfig]:
    """Market of an asset class, as shipped."""
    return lambda name: config.load(MarketConfig, root / "configs" / "markets" / f"{name}.yaml")


@pytest.fixture(scope="session")
def real_bars(real_dump: Callable[[str], Path]) -> Callable[[str], dict[str, pl.DataFrame]]:
    """Closes by class of a real dump, each class at its own bar, read as plainly as can be."""

    def read(stem: str) -> dict[str, pl.DataFrame]:
        with sqlite3.connect(f"file:{real_dump(stem)}?mode=ro", uri=True) as db:
            meta = {symbol: json.loads(text) for symbol, text in db.execute("SELECT symbol, metadata FROM assets")}
            rows = db.execute("SELECT symbol, timestamp, close FROM series ORDER BY symbol, timestamp").fetchall()
        db.close()
        frame = pl.DataFrame(rows, schema={"symbol": pl.String, "ts": pl.String, "close_adj": pl.Float64}, orient="row")
        ts_ns = pl.col("ts").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ns").cast(pl.Int64)
        frame = frame.select("symbol", ts_ns.alias("ts_ns"), ts_ns.alias("known_ns"), "close_adj")
        right = {"crypto_perpetual": "1h"}
        kept = {s: m["asset_class"] for s, m in meta.items() if m["bar"] == right.get(m["asset_class"], "1d")}
        return {
            name: frame.filter(pl.col("symbol").is_in([symbol for symbol, of in kept.items() if of == name])) for name in set(kept.values())
        }

    return read
