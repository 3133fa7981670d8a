"""How fast the regimes are built: the whole station on one thread, beside a straightforward twin in pandas and numpy.

    OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 python benchmarks/data_regimes.py

CPU-seconds of this process, on few symbols with many bars and on many symbols with few. The twin does the same five states with
the library calls that come to mind first (rolling ranks, grouped ranks, exponential means) and a hidden Markov model in numpy;
as that walks through the bars in Python, it is timed on one symbol and counted for all.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from timing import cpu_seconds

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.regimes.build import RegimesConfig, build

ROOT = Path(__file__).resolve().parents[1]
SIZES = ((5, 32_768), (500, 2_520))
TARGET = 1_000_000
SECTORS = 11


def frames(num_symbols: int, num_bars: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Bars, features and assets of a class: persistent measures, a price in calm and storm, a sector for each symbol."""
    rng = np.random.default_rng(0)
    symbols = [f"S{n:03d}" for n in range(num_symbols)]
    ts_ns = np.tile((np.arange(num_bars) + 1) * NS_PER_DAY, num_symbols)
    keys = pl.DataFrame({"symbol": np.repeat(symbols, num_bars), "ts_ns": ts_ns, "known_ns": ts_ns})
    storm = np.cumsum(rng.random((num_symbols, num_bars)) < 0.01, axis=1) % 2
    ret = rng.standard_normal((num_symbols, num_bars)) * np.where(storm, 0.02, 0.008)
    bars = keys.with_columns(pl.Series("close_adj", 50 * np.exp(np.cumsum(ret, axis=1) - 0.5 * np.cumsum(ret**2, axis=1)).ravel()))
    values = {}
    for name in ("vol_ewma", "amihud", "ret_long"):
        noise = rng.standard_normal((num_symbols, num_bars))
        for t in range(1, num_bars):
            noise[:, t] += 0.97 * noise[:, t - 1]
        values[name] = pl.Series(noise.astype(np.float32).ravel())
    assets = pl.DataFrame({"symbol": symbols, "sector": [f"sector {n % SECTORS}" for n in range(num_symbols)]})
    return bars, keys.with_columns(**values), assets


def twin(bars: pl.DataFrame, features: pl.DataFrame, assets: pl.DataFrame, cfg: RegimesConfig) -> None:
    """Ranks and trend as pandas gives them."""
    frame = features.to_pandas().merge(assets.to_pandas(), on="symbol")
    by_symbol = frame.groupby("symbol", sort=False)
    for name in (cfg.volatility, cfg.illiquidity):
        by_symbol[name].rolling(cfg.bands.window_bars, min_periods=cfg.bands.min_count).rank(pct=True)
    sector, whole = frame.groupby(["ts_ns", "sector"])[cfg.rotation], frame.groupby("ts_ns")[cfg.rotation]
    sector.rank(pct=True).where(sector.transform("count") >= cfg.rotation_min_symbols, whole.rank(pct=True))
    price = pd.Series(np.log(bars["close_adj"].to_numpy()))
    ret = price.groupby(frame["symbol"]).diff()
    halflife = cfg.trend.halflife_bars
    mean = ret.groupby(frame["symbol"]).transform(lambda own: own.ewm(halflife=halflife).mean())
    square = (ret**2).groupby(frame["symbol"]).transform(lambda own: own.ewm(halflife=halflife).mean())
    strength = (mean / np.sqrt(square)).to_numpy()
    state = np.zeros(strength.size)
    for i in range(1, strength.size):
        state[i] = np.sign(strength[i]) if abs(strength[i]) > 0.1 else state[i - 1] if abs(strength[i]) > 0.03 else 0.0


def twin_markov(ret: np.ndarray, cfg: RegimesConfig) -> None:
    """Fits and filter of one symbol, in numpy, bar after bar."""
    num, hmm = cfg.hmm.num_states, cfg.hmm
    mean, var, step = np.zeros(num), ret.var() * np.logspace(-0.5, 0.5, num), np.full((num, num), 0.05) + np.eye(num) * 0.9
    for i in range(hmm.min_count, ret.size, hmm.refit_bars):
        x = ret[max(0, i - hmm.window_bars + 1) : i + hmm.refit_bars]
        for _ in range(1 + (hmm.first_iterations if i == hmm.min_count else hmm.iterations)):
            density = np.exp(-0.5 * (x[:, None] - mean) ** 2 / var) / np.sqrt(var)
            belief, back, scale = np.empty_like(density), np.ones_like(density), np.empty(x.size)
            before = np.full(num, 1 / num)
            for t in range(x.size):
                before = before @ step * density[t]
                scale[t] = before.sum()
                before = belief[t] = before / scale[t]
            for t in range(x.size - 2, -1, -1):
                back[t] = step @ (density[t + 1] * back[t + 1]) / scale[t + 1]
            share = belief * back
            moves = step * (belief[:-1].T @ (density[1:] * back[1:] / scale[1:, None])) + 1.0
            step = moves / moves.sum(axis=1, keepdims=True)
            mean = share.T @ x / share.sum(axis=0)
            var = np.maximum((share * (x[:, None] - mean) ** 2).sum(axis=0) / share.sum(axis=0), 1e-8)


def run() -> list[dict[str, object]]:
    """One row a size and one a twin: what, size, measured, unit, target, holds."""
    cfg = config.load(RegimesConfig, ROOT / "configs" / "base" / "regimes.yaml")
    build(*frames(3, 600), cfg)
    rows: list[dict[str, object]] = []
    for num_symbols, num_bars in SIZES:
        bars, features, assets = frames(num_symbols, num_bars)
        size = f"{num_symbols} x {num_bars}"
        speed = bars.height / cpu_seconds(3, build, bars, features, assets, cfg)
        rows.append({"what": "regimes", "size": size, "measured": speed, "unit": "bars/CPU-s", "target": TARGET, "holds": speed >= TARGET})
        one = np.diff(np.log(bars["close_adj"].to_numpy()[: min(num_bars, 2_520)]))
        markov = cpu_seconds(1, twin_markov, one, cfg) * bars.height / (one.size + 1)
        slow = bars.height / (markov + cpu_seconds(1, twin, bars, features, assets, cfg))
        rows.append({"what": "regimes, times the twin", "size": size, "measured": speed / slow, "unit": "x", "target": None, "holds": True})
    return rows


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
