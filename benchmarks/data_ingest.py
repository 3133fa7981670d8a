"""How fast a dump becomes tables, and within how much memory: `python benchmarks/data_ingest.py [--large]`.

CPU-seconds of one process and thread, from the file as it lands to validated tables of every class in it: copy, hashes, gate,
snapshot, the seven tables, their contracts. Rows are rows of the dump, all tables together. The twin reads the same tables with
pandas, checks the same of their prices and keys, and sorts them; it keeps no copy, writes nothing and warns of nothing.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl

from plusultra_core import config
from plusultra_core.data.contract.validation import validate
from plusultra_core.data.samples.dump_writer import write_dump
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import TABLES, DataConfig, build_table, classes_in
from plusultra_core.market import MarketConfig

ROOT = Path(__file__).resolve().parents[1]
MADE = {"5 x 32,768 bars": (5, 32_768), "500 x 2,520 bars": (500, 2_520)}
LARGE = (500, 50_000)
"""Symbols and bars of a dump of 2 GB."""
_REPEATS = 3


def make_dump(path: Path, num_symbols: int, num_bars: int, seed: int = 0) -> None:
    """A sound dump of hourly bars, one random walk a symbol, in the order of time."""
    import sqlite3

    rng = np.random.default_rng(seed)
    names = [f"S{number:04d}" for number in range(num_symbols)]
    about = json.dumps({"asset_class": "crypto", "bar": "1h", "price_adjustment": "none"})
    assets = pl.DataFrame({"asset_id": range(1, num_symbols + 1), "symbol": names, "currency": "USD", "metadata": about})
    write_dump(path, {"assets": assets})
    db = sqlite3.connect(path, isolation_level=None)
    for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "BEGIN"):
        db.execute(statement)
    first_ns = 1_262_304_000 * 10**9
    level = np.full(num_symbols, 100.0)
    step = max(1, 100_000 // num_symbols)
    for start in range(0, num_bars, step):
        count = min(step, num_bars - start)
        closes = level * np.exp(np.cumsum(0.001 * rng.standard_normal((count, num_symbols)), axis=0))
        level = closes[-1]
        wide = 1 + 0.002 * rng.random((2, count * num_symbols))
        close = pl.Series(closes.ravel())
        stamps = pl.Series(first_ns + 3_600 * 10**9 * np.arange(start, start + count).repeat(num_symbols)).cast(pl.Datetime("ns"))
        columns = {"timestamp": stamps.dt.strftime("%Y-%m-%d %H:%M:%S"), "symbol": names * count, "open": close, "high": close * wide[0]}
        columns |= {"low": close / wide[1], "close": close, "volume": 1e6 * wide[0], "vwap": close, "turnover": 1e6 * close}
        db.executemany("INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", pl.DataFrame(columns).iter_rows())
    db.execute("COMMIT")
    db.close()


def settings() -> tuple[DataConfig, dict[str, MarketConfig]]:
    """The profile base, and every market."""
    markets = {path.stem: config.load(MarketConfig, path) for path in sorted((ROOT / "configs" / "markets").glob("*.yaml"))}
    return config.load(DataConfig, ROOT / "configs" / "base" / "data.yaml"), markets


def ingest(dump: Path, store: Path) -> dict[str, float]:
    """Snapshot and validated tables of all classes; CPU-seconds of each part."""
    cfg, markets = settings()
    clock = [time.process_time()]
    taken = take_snapshot(dump, store, cfg, markets)
    clock.append(time.process_time())
    validating = 0.0
    for asset_class in classes_in(taken.path, markets, cfg):
        for name in TABLES:
            frame = build_table(name, taken.path, asset_class, markets, cfg)
            begun = time.process_time()
            validate(name, frame)
            validating += time.process_time() - begun
    clock.append(time.process_time())
    rows = sum(taken.manifest["counts"].values())
    return {"rows": rows, "gate_s": clock[1] - clock[0], "tables_s": clock[2] - clock[1] - validating, "contract_s": validating}


def twin(dump: Path) -> float:
    """The same prices and keys by pandas; CPU-seconds."""
    import sqlite3

    import pandas as pd

    begun = time.process_time()
    db = sqlite3.connect(dump)
    assets = pd.read_sql_query("SELECT * FROM assets", db)
    for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        frame = pd.read_sql_query(f'SELECT * FROM "{table}"', db)
        if "timestamp" not in frame or frame.empty:
            continue
        frame["timestamp"] = pd.to_datetime(frame["timestamp"], format="%Y-%m-%d %H:%M:%S", utc=True)
        keys = [name for name in ("symbol", "timestamp", "name", "event", "action") if name in frame]
        assert not frame[keys].isna().any().any() and not frame.duplicated(keys).any()
        if table == "series":
            prices = frame[["open", "high", "low", "close"]]
            assert not (prices <= 0).any().any() and np.isfinite(prices.fillna(1)).all().all() and not (frame["high"] < frame["low"]).any()
            assert frame["symbol"].isin(assets["symbol"]).all()
        frame = frame.sort_values(keys)
    db.close()
    return time.process_time() - begun


def _measure(what: str, dump: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """The best of several runs."""
    found = [ingest(dump, folder / str(number)) for number in range(repeats)]
    best = min(found, key=lambda part: part["gate_s"] + part["tables_s"] + part["contract_s"])
    cpu_s = best["gate_s"] + best["tables_s"] + best["contract_s"]
    return {"what": what, **best, "cpu_s": cpu_s, "rows_per_cpu_s": best["rows"] / cpu_s}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(large: bool = False) -> list[dict[str, Any]]:
    """One row a dump: rows, CPU-seconds of gate, tables and contracts, rows a CPU-second of us and of the twin.

    `large`: the dump of 2 GB alone, with the peak of the resident memory of this process, and without a twin.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if large:
            dump = folder / "large.sqlite"
            subprocess.run([sys.executable, __file__, "--make", str(dump)], check=True)  # its memory is not ours
            what = f"{LARGE[0]} x {LARGE[1]:,} bars, {dump.stat().st_size / 1e9:.1f} GB"
            return [_measure(what, dump, folder / "store", 1) | {"peak_mb": _peak_mb()}]
        dumps = {}
        for what, size in MADE.items():
            dumps[what] = folder / f"made_{size[0]}.sqlite"
            make_dump(dumps[what], *size)
        real = Path(os.environ.get("PLUSULTRA_REAL_DUMPS", ROOT.parent / "shared" / "data")) / "market_2017_a.sqlite"
        if real.exists():
            dumps[real.stem] = real
        rows = [_measure(what, dump, folder / f"store_{number}", _REPEATS) for number, (what, dump) in enumerate(dumps.items())]
        return [row | {"twin_rows_per_cpu_s": row["rows"] / min(twin(dumps[row["what"]]) for _ in range(_REPEATS))} for row in rows]


def main(arguments: list[str]) -> None:
    """Print the table, or make the large dump."""
    if arguments[:1] == ["--make"]:
        make_dump(Path(arguments[1]), *LARGE)
        return
    rows = run("--large" in arguments)
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print(
            "| "
            + " | ".join(value if isinstance(value, str) else f"{value:,.{0 if value >= 1000 else 3}f}" for value in row.values())
            + " |"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
