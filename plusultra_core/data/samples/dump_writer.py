"""Writing a dump: frames in, one SQLite file in the input contract out.

The twin of the gate: what is written here passes it. Equal frames give equal bytes (with one SQLite
version): rows go in sorted by key, in one transaction, into an empty file.
"""

import os
import sqlite3
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.errors import ConfigError, ContractError

NEW_YORK = "America/New_York"
Days = np.ndarray[tuple[int], np.dtype[np.datetime64]]
Notation = Literal["text", "iso", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns"]

_TIME = "timestamp"
_EPOCH_DIVISOR = {"epoch_s": 10**9, "epoch_ms": 10**6, "epoch_us": 10**3, "epoch_ns": 1}

# Columns of every table of the contract, and its key.
SCHEMA: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "assets": (
        {"asset_id": "INTEGER", "symbol": "TEXT", "sector": "TEXT", "currency": "TEXT", "exchange": "TEXT", "metadata": "JSON"},
        ("asset_id",),
    ),
    "series": (
        {_TIME: "DATETIME", "symbol": "TEXT"} | dict.fromkeys(("open", "high", "low", "close", "volume", "vwap", "turnover"), "REAL"),
        (_TIME, "symbol"),
    ),
    "indicators": (
        {_TIME: "DATETIME", "symbol": "TEXT", "name": "TEXT", "value": "REAL", "metadata": "JSON"},
        (_TIME, "symbol", "name"),
    ),
    "regimes": ({_TIME: "DATETIME", "symbol": "TEXT", "name": "TEXT", "value": "TEXT"}, (_TIME, "symbol", "name")),
    "trades": (
        {"trade_id": "INTEGER", _TIME: "DATETIME", "symbol": "TEXT", "side": "TEXT"}
        | dict.fromkeys(("size", "price", "fees", "slippage_bp", "pnl"), "REAL")
        | {"metadata": "JSON"},
        ("trade_id",),
    ),
    "trade_annotations": (
        {"annotation_id": "INTEGER", "trade_id": "INTEGER", "symbol": "TEXT", "trade_timestamp": "DATETIME", "decision": "TEXT"}
        | {"rationale": "TEXT", "confidence": "REAL", "tags": "TEXT", "author": "TEXT", "created_at": "DATETIME", "metadata": "JSON"}
        | {"context_window_start": "DATETIME", "context_window_end": "DATETIME"},
        ("annotation_id",),
    ),
    "benchmarks": ({_TIME: "DATETIME", "symbol": "TEXT", "return": "REAL", "level": "REAL"}, (_TIME, "symbol")),
    "cross_asset_views": (
        {_TIME: "DATETIME", "feature": "TEXT", "value": "REAL", "universe": "TEXT", "metadata": "JSON"},
        (_TIME, "feature"),
    ),
    "corporate_actions": (
        {_TIME: "DATETIME", "symbol": "TEXT", "action": "TEXT", "amount": "REAL", "ratio": "REAL", "currency": "TEXT", "source": "TEXT"},
        (_TIME, "symbol", "action"),
    ),
    "macro_calendar": (
        {_TIME: "DATETIME", "event": "TEXT", "region": "TEXT", "reference_period": "TEXT", "actual": "REAL", "previous": "REAL"}
        | {"unit": "TEXT", "time_kind": "TEXT", "impact": "REAL", "source": "TEXT"},
        (_TIME, "event"),
    ),
    "macro_rates": ({_TIME: "DATETIME", "name": "TEXT", "value": "REAL", "unit": "TEXT"}, (_TIME, "name")),
    "funding_rates": (
        {_TIME: "DATETIME", "symbol": "TEXT", "rate": "REAL", "interval_hours": "REAL", "venue": "TEXT"},
        (_TIME, "symbol"),
    ),
    "options_implied_vol": ({_TIME: "DATETIME", "symbol": "TEXT", "iv_30d": "REAL"}, (_TIME, "symbol")),
}

# Written even when they are empty, as the real dumps do.
ALWAYS = ("assets", "series", "indicators", "regimes", "trades", "trade_annotations", "benchmarks", "cross_asset_views")


def write_dump(path: Path, tables: Mapping[str, pl.DataFrame], notation: Notation = "text") -> dict[str, int]:
    """Write frames as one dump file; it appears under its name whole or not at all. Returns rows per table.

    A frame has the columns of its table, with `ts_ns` (Int64, UTC nanoseconds) in place of `timestamp`;
    missing nullable columns become NULL, NaN becomes NULL.

    Raises  ContractError for an unknown table or column, or a key that stands twice or is null.
    """
    frames = {name: _arrange(name, tables.get(name), notation) for name in SCHEMA if name in tables or name in ALWAYS}
    if unknown := sorted(set(tables) - set(SCHEMA)):
        raise ContractError(f"{unknown[0]}: expected a table of {sorted(SCHEMA)}; leave it out")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    os.close(handle)
    temporary = Path(name)
    try:
        _fill(temporary, frames)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return {table: frame.height for table, frame in frames.items()}


def _fill(path: Path, frames: Mapping[str, pl.DataFrame]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA page_size = 4096")
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        for table, frame in frames.items():
            db.execute(_create(table))
            holes = ", ".join("?" * frame.width)
            db.executemany(f'INSERT INTO "{table}" VALUES ({holes})', frame.iter_rows())
        db.execute("COMMIT")
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _create(table: str) -> str:
    columns, key = SCHEMA[table]
    required = {*key, "symbol"} if table in ("assets", "series") else set(key)
    lines = [f'"{name}" {kind}{" NOT NULL" if name in required else ""}' for name, kind in columns.items()]
    lines += [f"PRIMARY KEY ({', '.join(key)})"] + (["UNIQUE (symbol)"] if table == "assets" else [])
    return f'CREATE TABLE "{table}" ({", ".join(lines)})' + (" WITHOUT ROWID" if table in ("series", "indicators") else "")


def _arrange(table: str, frame: pl.DataFrame | None, notation: Notation) -> pl.DataFrame:
    """The frame with exactly the table's columns, in its order, sorted by key."""
    columns, key = SCHEMA[table]
    frame = pl.DataFrame() if frame is None else frame
    if "ts_ns" in frame.columns:
        if frame["ts_ns"].null_count():
            raise ContractError(f"{table}.ts_ns: expected no nulls, found {frame['ts_ns'].null_count()}; drop those rows")
        frame = (
            frame.with_columns(_stamp(pl.col("ts_ns"), notation).alias(_TIME)).sort("ts_ns", *(k for k in key if k != _TIME)).drop("ts_ns")
        )
    if unknown := sorted(set(frame.columns) - set(columns)):
        raise ContractError(f"{table}.{unknown[0]}: expected columns of {sorted(columns)}; leave it out")
    if frame.height:
        for name in key:
            if name not in frame.columns or frame[name].null_count():
                raise ContractError(f"{table}.{name}: expected a value in every row, it is part of the key; fill it in")
        if twice := frame.height - frame.select(key).n_unique():
            raise ContractError(f"{table}: {twice} rows repeat the key {key}; allowed 0; keep one of each")
    whole = [pl.col(name) if name in frame.columns else pl.lit(None).alias(name) for name in columns]
    arranged = frame.select(whole) if frame.width else pl.DataFrame(schema=dict.fromkeys(columns, pl.Null))
    return arranged.with_columns(pl.col(pl.Float64, pl.Float32).fill_nan(None))


def _stamp(ts_ns: pl.Expr, notation: Notation) -> pl.Expr:
    if notation in _EPOCH_DIVISOR:
        return ts_ns // _EPOCH_DIVISOR[notation]
    moment = ts_ns.cast(pl.Datetime("ns"))
    whole = "%Y-%m-%d %H:%M:%S" if notation == "text" else "%Y-%m-%dT%H:%M:%S"
    tail = "" if notation == "text" else "Z"
    return pl.when(ts_ns % 10**9 == 0).then(moment.dt.strftime(whole + tail)).otherwise(moment.dt.strftime(whole + "%.3f" + tail))


def long_rows(ts_ns_T: Int64Array, symbols: Sequence[str], mask_TN: BoolArray, columns_TN: Mapping[str, Float64Array]) -> pl.DataFrame:
    """The marked cells of (T, N) arrays as rows: ts_ns, symbol, then the columns."""
    t, n = np.nonzero(mask_TN)
    symbol = pl.Series(symbols, dtype=pl.String).gather(n)
    return pl.DataFrame({"ts_ns": ts_ns_T[t], "symbol": symbol, **{name: value[t, n] for name, value in columns_TN.items()}})


def new_york_ns(days: Days, time_local: str) -> Int64Array:
    """UTC nanoseconds of a New York wall time (`16:00`) on some days, daylight saving included."""
    hour, minute = (int(part) for part in time_local.split(":"))
    frame = pl.Series("day", days.astype("datetime64[ms]")).cast(pl.Date).to_frame()
    local = pl.col("day").dt.combine(pl.time(hour, minute)).dt.replace_time_zone(NEW_YORK)
    return frame.select(local.dt.convert_time_zone("UTC").dt.epoch("ns"))["day"].to_numpy().astype(np.int64)


def new_york_sessions(start: str, num_bars: int) -> Days:
    """The first `num_bars` sessions of the New York exchange from a day on, as dates.

    Raises  ConfigError when the calendar ends before.
    """
    import exchange_calendars

    first = np.datetime64(start, "D")
    last = first + np.timedelta64(int(num_bars * 1.5) + 20, "D")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas deprecations inside the calendar package
        sessions = exchange_calendars.get_calendar("XNYS", start=str(first), end=str(last)).sessions.to_numpy()
    if sessions.size < num_bars:
        raise ConfigError(f"num_bars: expected at most {sessions.size} sessions from {start} on, found {num_bars}")
    return np.asarray(sessions.astype("datetime64[D]")[:num_bars])
