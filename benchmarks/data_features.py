"""How fast features are made: `OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 python benchmarks/data_features.py`.

CPU-seconds of one process and thread, best of three, on few symbols with many bars and on many symbols with few. The twin of
data_features_twin.py makes the same features of the same bars with pandas and `ta`; it is timed on a few of the symbols and
counted a bar, the engine on all of them with that set of features alone. Memory is that of the bars and the most that a process of
its own holds beyond what it held when it had read its tables. A new day is the last bar of every symbol, on top of all the others.
"""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import polars as pl
from data_features_twin import TWINS
from timing import cpu_seconds

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.features.build import FeaturesConfig, build
from plusultra_core.features.catalog import CATALOG
from plusultra_core.features.extend import Previous, extend
from plusultra_core.market import MarketConfig

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"5 x 32,768 bars": (5, 32_768), "500 x 2,520 bars": (500, 2_520)}
PRICES = ("open", "high", "low", "close", "volume")
Frames = dict[str, pl.DataFrame]
REPEATS = 3
_TWIN_BARS = 10_000
_START_NS = 946_684_800 * 10**9 + 21 * 3_600 * 10**9


def make(num_symbols: int, num_bars: int, seed: int = 0) -> Frames:
    """Daily bars of random walks with all prices and volumes, an indicator and a funding rate a bar, rates, volatility, events."""
    rng = np.random.default_rng(seed)
    shape = (num_symbols, num_bars)
    walk = np.cumsum(0.02 * rng.standard_normal(shape), axis=1)
    close = 50.0 * np.exp(walk - 0.9 * np.linspace(0.0, 1.0, num_bars) * walk[:, -1:])
    open_ = close * np.exp(0.006 * rng.standard_normal(shape))
    high = np.maximum(open_, close) * np.exp(0.01 * np.abs(rng.standard_normal(shape)))
    low = np.minimum(open_, close) * np.exp(-0.01 * np.abs(rng.standard_normal(shape)))
    values = (open_, high, low, close, np.exp(12.0 + 0.5 * rng.standard_normal(shape)))
    ts_ns = np.tile(_START_NS + NS_PER_DAY // 5 * np.arange(num_bars), num_symbols)
    keys = pl.DataFrame({"symbol": np.repeat([f"S{n:03d}" for n in range(num_symbols)], num_bars), "ts_ns": ts_ns, "known_ns": ts_ns})
    prices = {f"{name}{end}": value.ravel() for name, value in zip(PRICES, values, strict=True) for end in ("", "_adj")}
    more = {"adj_factor": pl.lit(1.0), "gap_bars": pl.lit(0, dtype=pl.Int32), "has_ohl": pl.lit(True), "has_volume": pl.lit(True)}
    wide = keys.head(num_bars).with_columns(symbol=pl.lit(None, dtype=pl.String))

    def side(rows: pl.DataFrame, table: str, field: str) -> pl.DataFrame:
        value = pl.Series("value", 0.1 + np.abs(rng.standard_normal(rows.height)))
        expires = pl.lit(None, dtype=pl.Int64).alias("expires_ns")
        return rows.select(pl.lit(table).alias("table"), "symbol", pl.lit(field).alias("field"), "ts_ns", "known_ns", expires, value)

    sides = [side(keys, "funding_rates", "rate"), side(wide, "options_implied_vol", "^GSPC.iv_30d")]
    sides += [side(wide, "macro_rates", "UST_3MONTH.value"), side(wide, "macro_rates", "UST_10YEAR.value")]
    sides += [side(wide.gather_every(21), "macro_calendar", "CPI.actual")]
    noise = pl.Series("value", rng.standard_normal(keys.height))
    return {
        "bars": keys.hstack([pl.Series(name, value) for name, value in prices.items()]).with_columns(**more),
        "indicators": keys.select("symbol", pl.lit("alpha_1").alias("name"), "ts_ns", "known_ns", noise),
        "side_tables": pl.concat(sides).sort("symbol", "ts_ns", "table", "field", "known_ns"),
    }


def shipped() -> tuple[MarketConfig, FeaturesConfig]:
    """The market of equities and the features of the base profile."""
    configs = ROOT / "configs"
    return config.load(MarketConfig, configs / "markets/equity.yaml"), config.load(FeaturesConfig, configs / "base/features.yaml")


def speed(what: str, frames: Frames) -> list[dict[str, Any]]:
    """The whole catalogue, and the features of the twin beside the twin."""
    market, cfg = shipped()
    num_bars = frames["bars"].height
    whole = num_bars / cpu_seconds(REPEATS, build, **frames, market=market, cfg=cfg)
    some = dataclasses.replace(cfg, bundles=(), include=tuple(TWINS), indicators=dataclasses.replace(cfg.indicators, names=()))
    ours = cpu_seconds(REPEATS, build, **frames, market=market, cfg=some) / num_bars
    symbols = max(1, _TWIN_BARS // (num_bars // frames["bars"]["symbol"].n_unique()))
    theirs, agreeing = twin(frames, build(**frames, market=market, cfg=some), symbols)
    rows = [line(f"features: the whole catalogue of {len(CATALOG)}", what, whole, "bars/CPU-s", 300_000, whole >= 300_000)]
    label = f"features: {len(TWINS)} of them beside pandas and ta ({agreeing} say the same)"
    return [*rows, line(label, what, theirs / ours, "times", 40, theirs / ours >= 40)]


def twin(frames: Frames, features: pl.DataFrame, num_symbols: int) -> tuple[float, int]:
    """CPU-seconds a bar of the twin on some symbols, and how many of its features are the engine's after 500 bars."""
    names = frames["bars"]["symbol"].unique().sort()[:num_symbols]
    seconds, num_bars, agree = 0.0, 0, dict.fromkeys(TWINS, True)
    for name in names:
        rows = frames["bars"].filter(pl.col("symbol") == name)
        frame = pd.DataFrame({column: rows[column].to_numpy() for column in PRICES})
        frame["time"] = pd.to_datetime(rows["ts_ns"].to_numpy(), utc=True)
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {feature: of(frame) for feature, of in TWINS.items()}
        seconds, num_bars = seconds + time.process_time() - start, num_bars + rows.height
        own = features.filter(pl.col("symbol") == name)
        for feature, values in found.items():
            one, two = own[feature].to_numpy()[500:], values.to_numpy()[500:]
            there = np.isfinite(one) & np.isfinite(two)
            agree[feature] &= bool(there.any()) and float(np.corrcoef(one[there], two[there])[0, 1]) > 0.99
    return seconds / num_bars, sum(agree.values())


def new_day(what: str, frames: Frames) -> dict[str, Any]:
    """The last bar of every symbol on top of all the others."""
    market, cfg = shipped()
    end_ns = int(frames["bars"]["ts_ns"].unique().sort()[-2])
    early = {name: frame.filter(pl.col("known_ns") <= end_ns) for name, frame in frames.items()}
    first = extend(None, **early, market=market, cfg=cfg)
    previous = Previous(**early, features=first.features, state=first.state)
    whole = cpu_seconds(REPEATS, extend, None, **frames, market=market, cfg=cfg)
    share = cpu_seconds(REPEATS, extend, previous, **frames, market=market, cfg=cfg) / whole
    same = extend(previous, **frames, market=market, cfg=cfg).features.equals(build(**frames, market=market, cfg=cfg))
    assert same, "a build that was extended differs from one made at once"
    return line("features: one more day, of the time of all", what, 100 * share, "%", 5, share <= 0.05)


def memory(folder: Path) -> float:
    """Most memory of a build over the size of its bars, bars included; for a process of its own that reads its tables."""
    market, cfg = shipped()
    build(**make(3, 300), market=market, cfg=cfg)
    frames = {path.stem: pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
    size, before = frames["bars"].estimated_size(), resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    build(**frames, market=market, cfg=cfg)
    peak = int(next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM")).split()[1]) * 1024
    return 1.0 + (peak - before) / size


def resident() -> int:
    """Bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def line(what: str, size: str, measured: float, unit: str, target: float, holds: bool) -> dict[str, Any]:
    """A row of the table."""
    return {"what": what, "size": size, "measured": measured, "unit": unit, "target": target, "holds": holds}


def run() -> list[dict[str, Any]]:
    """Rows of what, size, measured, unit, target, holds."""
    rows = []
    for what, size in SIZES.items():
        frames = make(*size)
        build(**make(2, size[1]), market=shipped()[0], cfg=shipped()[1])
        rows += speed(what, frames)
        if size[0] >= 100:
            rows.append(new_day(what, frames))
        with tempfile.TemporaryDirectory() as folder:
            for name, frame in frames.items():
                frame.write_parquet(Path(folder) / f"{name}.parquet", compression="uncompressed")
            command = [sys.executable, __file__, "--memory", folder]
            held = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rows.append(line("features: most memory, bars included", what, held, "x bars", 6, held <= 6))
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print(memory(Path(sys.argv[2])))
    else:
        for row in run():
            print(json.dumps(row))
