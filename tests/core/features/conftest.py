"""Panels of bars that the stations of columns are tested on."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.data.contract.frames import empty
from plusultra_core.features.build import FeaturesConfig, arrays_of, build
from plusultra_core.features.catalog import CATALOG
from plusultra_core.market import MarketConfig

START_NS = 1_451_682_000_000_000_000  # 2016-01-01 21:00 UTC
PRICES = ("open", "high", "low", "close", "volume")
Tables = tuple[dict[str, pl.DataFrame], pl.DataFrame, pl.DataFrame]


@pytest.fixture(scope="session")
def make_bars() -> Callable[..., pl.DataFrame]:
    """Random bars of a class: gaps in time, symbols that start late, close-only symbols, symbols and bars without volume."""

    def make(
        seed: int = 0,
        num_symbols: int = 4,
        num_times: int = 120,
        gap_share: float = 0.05,
        close_only: int = 0,
        no_volume: int = 0,
        bar_ns: int = NS_PER_DAY,
    ) -> pl.DataFrame:
        rng = np.random.default_rng(seed)
        frames = []
        for n in range(num_symbols):
            first = int(rng.integers(0, num_times // 4)) if n % 2 else 0
            sigma = 0.02 * np.exp(np.cumsum(0.1 * rng.standard_normal(num_times)) * 0.3)
            close = 50.0 * np.exp(np.cumsum(sigma * rng.standard_normal(num_times)))
            open_ = close * np.exp(0.3 * sigma * rng.standard_normal(num_times))
            high = np.maximum(open_, close) * np.exp(0.5 * sigma * np.abs(rng.standard_normal(num_times)))
            low = np.minimum(open_, close) * np.exp(-0.5 * sigma * np.abs(rng.standard_normal(num_times)))
            volume = np.exp(12.0 + 0.5 * rng.standard_normal(num_times))
            volume[rng.random(num_times) < 0.03] = 0.0
            present = (rng.random(num_times) >= gap_share) & (np.arange(num_times) >= first)
            present[-1] = True
            place = np.arange(num_times)[present]
            has_ohl = np.full(place.size, n >= close_only) & (rng.random(place.size) > 0.02)
            has_volume = np.full(place.size, n < num_symbols - no_volume) & (rng.random(place.size) > 0.02)
            frame = pl.DataFrame(
                {
                    "symbol": [f"S{n:02d}"] * place.size,
                    "ts_ns": START_NS + place * bar_ns,
                    "known_ns": START_NS + place * bar_ns,
                    "open": np.where(has_ohl, open_[present], np.nan),
                    "high": np.where(has_ohl, high[present], np.nan),
                    "low": np.where(has_ohl, low[present], np.nan),
                    "close": close[present],
                    "volume": np.where(has_volume, volume[present], np.nan),
                    "gap_bars": np.diff(place, prepend=place[0] - 1).astype(np.int32) - 1,
                }
            )
            frames.append(
                frame.with_columns(pl.col(pl.Float64).fill_nan(None), has_ohl=pl.Series(has_ohl), has_volume=pl.Series(has_volume))
            )
        bars = pl.concat(frames).with_columns(pl.lit(1.0).alias("adj_factor"), pl.col("gap_bars").cast(pl.Int32))
        return bars.with_columns(pl.col(name).alias(f"{name}_adj") for name in PRICES)

    return make


@pytest.fixture(scope="session")
def market(root: Path) -> Callable[[str], MarketConfig]:
    """Market of an asset class, as shipped."""
    return lambda name: config.load(MarketConfig, root / "configs" / "markets" / f"{name}.yaml")


@pytest.fixture(scope="session")
def real_tables(real_dump: Callable[[str], Path]) -> Callable[[str], Tables]:
    """Bars by class, indicators and side tables of a real dump, read as plainly as can be (no resampling, no actions)."""
    return lambda stem: _read(real_dump(stem))


def _read(path: Path) -> Tables:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

        def table(query: str) -> list[tuple[Any, ...]]:
            return db.execute(query).fetchall()

        meta = {symbol: json.loads(text) for symbol, text in table("SELECT symbol, metadata FROM assets")}
        series = _frame(
            table("SELECT timestamp, symbol, open, high, low, close, volume FROM series"), ["open", "high", "low", "close", "volume"]
        )
        indicators = _frame(table("SELECT timestamp, symbol, value, name FROM indicators"), ["value"], "name")
        sides = []
        for name, key, columns in (
            ("funding_rates", "symbol", ("rate", "interval_hours")),
            ("options_implied_vol", "symbol", ("iv_30d",)),
            ("macro_rates", "name", ("value",)),
            ("macro_calendar", "event", ("actual", "previous")),
        ):
            for column in columns if name in there else ():
                rows = _frame(table(f"SELECT timestamp, {key}, {column} FROM {name}"), ["value"])
                field = pl.lit(column) if key == "symbol" else pl.col("symbol") + f".{column}"
                symbol = pl.col("symbol") if key == "symbol" else pl.lit(None, dtype=pl.String)
                sides.append(
                    rows.select(pl.lit(name).alias("table"), field.alias("field"), "ts_ns", "known_ns", "value", symbol.alias("symbol"))
                )
    db.close()
    side = pl.concat(sides)
    series = series.with_columns(pl.col("symbol").replace_strict({s: m["asset_class"] for s, m in meta.items()}).alias("class"))
    daily = [s for s, m in meta.items() if m["bar"] == ("1h" if m["asset_class"] == "crypto_perpetual" else "1d")]
    bars = {}
    for (name,), rows in series.filter(pl.col("symbol").is_in(daily)).group_by("class", maintain_order=True):
        rows = rows.drop("class").sort("symbol", "ts_ns")
        adjusted = [pl.col(column).alias(f"{column}_adj") for column in PRICES]
        flags = [pl.col("high").is_not_null().alias("has_ohl"), pl.col("volume").is_not_null().alias("has_volume")]
        bars[str(name)] = rows.with_columns(*adjusted, *flags, adj_factor=pl.lit(1.0), gap_bars=pl.lit(0, dtype=pl.Int32))
    return bars, indicators.sort("symbol", "ts_ns", "name"), side


def _frame(rows: list[tuple[Any, ...]], values: list[str], *more: str) -> pl.DataFrame:
    schema = {"ts": pl.String, "symbol": pl.String, **dict.fromkeys(values, pl.Float64), **dict.fromkeys(more, pl.String)}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    ts_ns = pl.col("ts").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ns").cast(pl.Int64)
    return frame.select("symbol", ts_ns.alias("ts_ns"), ts_ns.alias("known_ns"), *values, *more)


@pytest.fixture(scope="session")
def smoke(root: Path) -> FeaturesConfig:
    """Features as the smoke profile builds them: windows of 5, 10 and 21 bars."""
    return config.load(FeaturesConfig, root / "configs" / "smoke" / "features.yaml")


@pytest.fixture(scope="session")
def of(smoke: FeaturesConfig, market: Callable[[str], MarketConfig]) -> Callable[..., pl.DataFrame]:
    """Features of bars, without indicators and side tables unless given."""

    def features(
        bars: pl.DataFrame,
        indicators: pl.DataFrame | None = None,
        side: pl.DataFrame | None = None,
        asset_class: str = "equity",
        cfg: FeaturesConfig = smoke,
    ) -> pl.DataFrame:
        beside = [empty(name) if frame is None else frame for name, frame in (("indicators", indicators), ("side_tables", side))]
        return build(bars, *beside, market(asset_class), cfg)

    return features


@pytest.fixture(scope="session")
def panel(make_bars: Callable[..., pl.DataFrame]) -> pl.DataFrame:
    """Five symbols: one close-only, one without volume, gaps and late starts."""
    return make_bars(seed=3, num_symbols=5, num_times=160, close_only=1, no_volume=1)


@pytest.fixture(scope="session")
def built(panel: pl.DataFrame, of: Callable[..., pl.DataFrame]) -> pl.DataFrame:
    """Features of the panel."""
    return of(panel)


@pytest.fixture(scope="session")
def exact(smoke: FeaturesConfig, market: Callable[[str], MarketConfig]) -> Callable[..., pl.DataFrame]:
    """Features of the catalogue in double precision, NaN where missing, without indicators and side tables unless given."""

    def features(bars: pl.DataFrame, indicators: pl.DataFrame | None = None, side: pl.DataFrame | None = None) -> pl.DataFrame:
        beside = [empty(name) if frame is None else frame for name, frame in (("indicators", indicators), ("side_tables", side))]
        arrays = arrays_of(bars, *beside, market("equity"), smoke)
        values = {spec.name: spec.function(arrays) for spec in CATALOG}
        return bars.select("symbol", "ts_ns").hstack([pl.Series(name, np.where(np.isfinite(x), x, np.nan)) for name, x in values.items()])

    return features


@pytest.fixture(scope="session")
def precise(panel: pl.DataFrame, exact: Callable[..., pl.DataFrame]) -> pl.DataFrame:
    """Features of the panel in double precision."""
    return exact(panel)


@pytest.fixture(scope="session")
def agree(panel: pl.DataFrame, precise: pl.DataFrame) -> Callable[[str, Callable[[pd.DataFrame], pd.Series]], None]:
    """Check a feature against a slow twin that sees one symbol's adjusted bars as a pandas frame."""

    def check(name: str, slow: Callable[[pd.DataFrame], pd.Series]) -> None:
        compared = 0
        for symbol in panel["symbol"].unique().sort():
            rows = panel.filter(pl.col("symbol") == symbol)
            frame = pd.DataFrame({k: rows[f"{k}_adj"].to_numpy().astype(float) for k in PRICES}).assign(ts_ns=rows["ts_ns"].to_numpy())
            expected = slow(frame).to_numpy(dtype=float)
            found = precise.filter(pl.col("symbol") == symbol)[name].to_numpy().astype(float)
            np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), err_msg=f"{name} {symbol}: other rows are missing")
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9, err_msg=f"{name} {symbol}")
            compared += int(np.isfinite(found).sum())
        assert compared > 100

    return check
