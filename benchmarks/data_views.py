"""How fast views are built and read back, and what the leak checks cost beside what they check.

    OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 python benchmarks/data_views.py

CPU-seconds of this process. A cell is one value of the long view: one row of the frame. The own class stands on few symbols with
many bars, then on many symbols with few, with four context classes that have holes and clocks of their own, and two side series.
The twin does the same features with pandas (groupby, merge_asof, rolling); it is slow, so it is timed on fewer symbols and bars.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from timing import cpu_seconds

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MIN
from plusultra_core.features.build import FeaturesConfig
from plusultra_core.features.build import build as build_features
from plusultra_core.leakage import Stretches, check_poison, check_truncation
from plusultra_core.market import MarketConfig
from plusultra_core.views.build import ViewsConfig, build
from plusultra_core.views.panel import wide

ROOT = Path(__file__).resolve().parents[1]
SIZES = ((5, 32_768, NS_PER_HOUR), (500, 2_520, NS_PER_DAY))
TWINS = ((5, 8_192, NS_PER_HOUR), (50, 2_520, NS_PER_DAY))
TARGET = 2_000_000
CONTEXT = {"etf": (("GLD", "QQQ", "SPY", "TLT"), 0), "index": (("^GSPC", "^IXIC"), 0), "forex": (("EURUSD", "GBPUSD"), -5 * NS_PER_HOUR)}
CONTEXT |= {"volatility_index": (("^VIX",), 15 * NS_PER_MIN)}
STRETCHES, NUM_CUTS, MAX_SYMBOLS = Stretches(num=4, num_past=1_000, num_future=128), 24, 8
Frames = dict[str, pl.DataFrame]


def bars_of(seed: int, symbols: tuple[str, ...], num_bars: int, bar_ns: int, offset_ns: int = 0) -> pl.DataFrame:
    """Bars of a class with two percent of them missing."""
    rng = np.random.default_rng(seed)
    parts = []
    for symbol in symbols:
        place = np.flatnonzero(rng.random(num_bars) >= 0.02)
        ts_ns = 1_451_682_000_000_000_000 + place * bar_ns + offset_ns
        close = 50 * np.exp(np.cumsum(0.01 * rng.standard_normal(place.size)))
        reach = np.exp(0.005 * np.abs(rng.standard_normal((2, place.size))))
        prices = {"open_adj": close / reach[0], "high_adj": close * reach[0], "low_adj": close / reach[0] / reach[1], "close_adj": close}
        volume = np.exp(12 + rng.standard_normal(place.size))
        keys = {"symbol": [symbol] * place.size, "ts_ns": ts_ns, "known_ns": ts_ns}
        gaps = np.diff(place, prepend=-1).astype(np.int32) - 1
        parts.append(pl.DataFrame({**keys, **prices, "volume_adj": volume, "adj_factor": np.ones(place.size), "gap_bars": gaps}))
    bars = pl.concat(parts).with_columns(has_ohl=True, has_volume=True)
    return bars.with_columns(pl.col(f"{name}_adj").alias(name) for name in ("open", "high", "low", "close", "volume"))


def world(num_symbols: int, num_bars: int, bar_ns: int) -> tuple[Frames, Frames, Frames]:
    """Bars, features (the momentum alone) and side tables by class."""
    bars = {"equity": bars_of(0, tuple(f"S{n:03d}" for n in range(num_symbols)), num_bars, bar_ns)}
    for seed, (name, (symbols, offset_ns)) in enumerate(CONTEXT.items(), start=1):
        bars[name] = bars_of(seed, symbols, num_bars, bar_ns, offset_ns)
    momentum = pl.col("close_adj").log().diff(63).over("symbol").cast(pl.Float32).alias("ret_long")
    features = {name: frame.select("symbol", "ts_ns", "known_ns", momentum) for name, frame in bars.items()}
    rng = np.random.default_rng(9)
    fields = ("UST_3MONTH.value", "UST_10YEAR.value")
    rows = [
        pl.DataFrame({"table": "macro_rates", "symbol": None, "field": field, "ts_ns": bars["index"]["ts_ns"].unique().sort()})
        .with_columns(pl.col("symbol").cast(pl.String), known_ns=pl.col("ts_ns") + NS_PER_HOUR)
        .pipe(lambda frame: frame.with_columns(value=pl.Series(np.cumsum(rng.standard_normal(frame.height)))))
        for field in fields
    ]
    return bars, features, {"equity": pl.concat(rows)}


def twin(bars: Mapping[str, pl.DataFrame], features: Mapping[str, pl.DataFrame], side: pl.DataFrame, cfg: ViewsConfig) -> int:
    """The cells of the view as pandas gives them; how many there are."""
    cells = 0
    frames = {name: frame.select("symbol", "ts_ns", "known_ns", "close_adj").to_pandas() for name, frame in bars.items()}
    own = frames["equity"]
    grid = own.groupby("ts_ns", as_index=False)["known_ns"].min().sort_values("known_ns")
    least, window = cfg.relative_min_count, cfg.relative_window

    def seen(source: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
        joined = pd.merge_asof(rows[["ts_ns", "known_ns"]], source.rename(columns={"ts_ns": "source_ns"}), on="known_ns")
        joined["age"] = joined["known_ns"] - joined["source_ns"]
        return joined.mask(joined["age"] > cfg.max_staleness_hours * NS_PER_HOUR)

    def moves(x: pd.Series, y: pd.Series, by: np.ndarray, lags: int) -> int:
        def rolled(values: pd.Series) -> pd.Series:
            return values.groupby(by).rolling(window, min_periods=least).mean().reset_index(level=0, drop=True)

        def pair(a: pd.Series, b: pd.Series) -> tuple[pd.Series, pd.Series, pd.Series]:
            a, b = a.where(b.notna()), b.where(a.notna())
            cov = rolled(a * b) - rolled(a) * rolled(b)
            return cov, rolled(a * a) - rolled(a) ** 2, rolled(b * b) - rolled(b) ** 2

        cov, var_x, var_y = pair(x, y)
        excess = x - y
        found = [cov / var_y, cov / np.sqrt(var_x * var_y), rolled(excess) / np.sqrt(rolled(excess**2) - rolled(excess) ** 2)]
        if lags:
            lagged = []
            for k in range(1, lags + 1):
                cov, var_x, var_y = pair(x, y.groupby(by).shift(k))
                lagged.append(cov / np.sqrt(var_x * var_y))
            table = np.nan_to_num(np.abs(pd.concat(lagged, axis=1).to_numpy()), nan=-1.0)
            found += [pd.Series(table.max(axis=1)), pd.Series(table.argmax(axis=1) + 1)]
        return sum(values.size for values in found)

    for frame in frames.values():
        frame["level"] = np.log(frame["close_adj"])
        frame["ret"] = frame.groupby("symbol")["level"].diff()
    own_ret = pd.Series(dtype=float)
    for name, frame in frames.items():
        frame["mom"] = features[name]["ret_long"].to_numpy()
        by_time = frame.groupby("ts_ns")
        source = pd.DataFrame({"level": by_time["ret"].mean().cumsum(), "mom": by_time["mom"].mean(), "dispersion": by_time["ret"].std()})
        source["known_ns"] = by_time["known_ns"].max()
        aligned = seen(source.reset_index().sort_values("known_ns"), grid)
        ret = aligned["level"].diff()
        cells += 3 * ret.size
        own_ret = ret if name == "equity" else own_ret
        cells += 0 if name == "equity" else moves(own_ret, ret, np.zeros(ret.size), cfg.lead_max_bars)
        for symbol in sorted(set(cfg.symbols) & set(frame["symbol"])):
            one = frame[frame["symbol"] == symbol]
            rolled = one["level"].rolling(cfg.z_window, min_periods=cfg.z_min_count)
            one = one.assign(z=((one["level"] - rolled.mean()) / rolled.std(ddof=0)).clip(-cfg.z_clip, cfg.z_clip))
            cells += 2 * seen(one[["ts_ns", "known_ns", "level", "z"]], grid)["level"].diff().size
    for field in side["field"].unique():
        rate = side.filter(pl.col("field") == field).to_pandas()
        cells += 2 * seen(rate[["ts_ns", "known_ns", "value"]], grid)["value"].diff().size
    by = own["symbol"].to_numpy()
    total, count = own.groupby("ts_ns")["ret"].transform("sum"), own.groupby("ts_ns")["ret"].transform("count")
    cells += moves(own["ret"], (total - own["ret"]) / (count - 1), by, cfg.lead_max_bars)
    for symbol in cfg.benchmarks:
        home = next((frame for frame in frames.values() if symbol in set(frame["symbol"])), None)
        if home is not None:
            source = home.loc[home["symbol"] == symbol, ["ts_ns", "known_ns", "level"]]
            order = np.argsort(own["known_ns"].to_numpy(), kind="stable")
            level = pd.Series(seen(source, own.iloc[order])["level"].to_numpy(), index=order).sort_index()
            cells += moves(own["ret"], level.groupby(by).diff(), by, 0)
    return cells


def row(what: str, size: str, measured: float, unit: str, target: float | None, holds: bool = True) -> dict[str, object]:
    """One line of the table."""
    return {"what": what, "size": size, "measured": measured, "unit": unit, "target": target, "holds": holds}


def settings() -> tuple[ViewsConfig, MarketConfig]:
    """Views as the base profile builds them; a market that sees four other classes."""
    market = config.load(MarketConfig, ROOT / "configs" / "markets" / "equity.yaml")
    return config.load(ViewsConfig, ROOT / "configs" / "base" / "views.yaml"), replace(market, context_classes=tuple(CONTEXT))


def speed_of_views() -> list[dict[str, object]]:
    """Cells a CPU-second, beside the twin; the way back to arrays."""
    cfg, market = settings()
    rows = []
    build("equity", *world(3, 600, NS_PER_DAY), market, cfg)
    for (num_symbols, num_bars, bar_ns), (fewer, shorter, _) in zip(SIZES, TWINS, strict=True):
        given, size = world(num_symbols, num_bars, bar_ns), f"{num_symbols} x {num_bars}"
        view = build("equity", *given, market, cfg).frame
        seconds = cpu_seconds(3, build, "equity", *given, market, cfg)
        speed = view.height / seconds
        rows.append(row("view", size, speed, "cells/CPU-s", TARGET, speed >= TARGET))
        small = world(fewer, shorter, bar_ns)
        given_twin = (small[0], small[1], small[2]["equity"], cfg)
        num_cells = twin(*given_twin)
        slow = cpu_seconds(1, twin, *given_twin)
        rows.append(row(f"view, times the twin ({fewer} x {shorter})", size, speed / (num_cells / slow), "x", None))
        symbols, ts_ns_T = tuple(sorted(set(given[0]["equity"]["symbol"]))), given[0]["equity"]["ts_ns"].unique().sort().to_numpy()
        back = view.height / cpu_seconds(2, wide, view, symbols, ts_ns_T)
        rows.append(row("view to panel", size, back, "cells/CPU-s", TARGET, back >= TARGET))
    return rows


def cost_of_checks() -> list[dict[str, object]]:
    """CPU-seconds of truncation and poison together, in builds of the whole."""
    cfg, market = settings()
    features_cfg = config.load(FeaturesConfig, ROOT / "configs" / "base" / "features.yaml")
    indicators = pl.DataFrame(schema={"symbol": pl.String, "name": pl.String, "ts_ns": pl.Int64, "known_ns": pl.Int64, "value": pl.Float64})
    rows = []
    for num_symbols, num_bars, bar_ns in SIZES:
        bars, features, side = world(num_symbols, num_bars, bar_ns)
        flat = {
            f"{name}@{kind}": frame
            for name, given in (("bars", bars), ("features", features), ("side", side))
            for kind, frame in given.items()
        }

        def view(frames: Frames) -> pl.DataFrame:
            parts = [
                {key.split("@")[1]: frame for key, frame in frames.items() if key.startswith(name)} for name in ("bars", "features", "side")
            ]
            return build("equity", *parts, market, cfg).frame

        def features_of(frames: Frames) -> pl.DataFrame:
            return build_features(frames["bars"], frames["indicators"], frames["side"], market, features_cfg)

        for what, builder, inputs in (
            ("features", features_of, {"bars": bars["equity"], "indicators": indicators, "side": side["equity"]}),
            ("view", view, flat),
        ):
            builder(dict(inputs))
            once = cpu_seconds(1, builder, dict(inputs))
            both = sum(
                cpu_seconds(1, check, builder, inputs, NUM_CUTS, 7, MAX_SYMBOLS, cfg.symbols, STRETCHES)
                for check in (check_truncation, check_poison)
            )
            size = f"{num_symbols} x {num_bars}"
            rows.append(row(f"{what}: build", size, once, "CPU-s", None))
            rows.append(row(f"{what}: both leak checks", size, both, "CPU-s", None))
            rows.append(row(f"{what}: both leak checks", size, both / once, "builds", None))
    return rows


def run() -> list[dict[str, object]]:
    """Rows of what, size, measured, unit, target, holds."""
    return speed_of_views() + cost_of_checks()


if __name__ == "__main__":
    for line in run():
        print(json.dumps(line))
