"""Every row of an accepted dump, however it is written, lies in the snapshot as plain SQLite reads it: none lost, none twice."""

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from plusultra_core.clock import NS_PER_S
from plusultra_core.data.contract.validation import validate
from plusultra_core.data.gate import ingest, rows
from plusultra_core.data.gate.connection import quote
from plusultra_core.data.snapshot import Snapshot, take_snapshot
from plusultra_core.data.tables import TABLES, DataConfig, build_table, classes_in
from plusultra_core.market import MarketConfig

SYMBOLS = ("AAA", "^GSPC", "BTC/USDT:USDT", "x'; DROP TABLE series;--", "../../etc/x", "Ärger 😀", "0700", "a b", "ON", "null", 'B"q')
NUMBERS = (1, 7, 2**53 + 1, 1e-320, 0.1, 123.456, 1e200, "2.50")
FIRST = datetime(2020, 1, 1, 21)
TEXT = {"space": "%Y-%m-%d %H:%M:%S", "T": "%Y-%m-%dT%H:%M:%S.25", "Z": "%Y-%m-%d %H:%M:%SZ", "offset": "%Y-%m-%d %H:%M:%S+00:00"}
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class Shape(NamedTuple):
    """A table of the dump: its text keys beside the time, its numbers, its primary key."""

    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    key: tuple[str, ...]
    known: bool = False


SHAPES = {
    "series": Shape(("symbol",), ("open", "close", "vwap", "volume", "turnover"), ("symbol", "timestamp"), known=True),
    "indicators": Shape(("symbol", "name"), ("value",), ("timestamp", "name", "symbol"), known=True),
    "benchmarks": Shape(("symbol",), ("return", "level"), ("symbol", "timestamp")),
    "trades": Shape(("symbol", "side"), ("trade_id", "size", "price", "fees", "slippage_bp", "pnl"), ("trade_id",)),
    "macro_rates": Shape(("name",), ("value",), ("name", "timestamp")),
    "funding_rates": Shape(("symbol",), ("rate", "interval_hours"), ("symbol", "timestamp")),
    "sentiment": Shape(("symbol",), ("score", "mood"), ("timestamp", "symbol")),
}
ALWAYS = ("close", "size", "price", "trade_id")


def stamp(notation: str, moment: datetime) -> tuple[object, int]:
    """A moment as it is written, and in ns."""
    seconds = int((moment - datetime(1970, 1, 1)).total_seconds())
    ns = seconds * NS_PER_S + (250_000_000 if notation == "T" else 0)
    return (moment.strftime(TEXT[notation]) if notation in TEXT else seconds * UNITS[notation]), ns


class World:
    """A random dump, and what plain SQLite says of it."""

    def __init__(self, seed: int, path: Path) -> None:
        self.draw = random.Random(seed)
        self.symbols = self.draw.sample(SYMBOLS, self.draw.randint(1, 6))
        self.times: dict[tuple[str, object], int] = {}
        self.rows: dict[str, list[dict[str, object]]] = {}
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA page_size = {self.draw.choice([512, 4096, 65536])}")
            db.execute(f"PRAGMA encoding = '{self.draw.choice(['UTF-8', 'UTF-8', 'UTF-16'])}'")
            db.execute(f"CREATE TABLE {self.case('assets')} ({quote(self.case('symbol'))} TEXT)")
            db.executemany("INSERT INTO assets VALUES (?)", [(symbol,) for symbol in self.symbols])
            for table in ("series", *self.draw.sample(list(SHAPES)[1:], 4)):
                self.add(db, table, SHAPES[table])
            db.execute("CREATE VIEW everything AS SELECT * FROM series, assets")
            db.commit()

    def case(self, name: str) -> str:
        """The name, in some case."""
        return self.draw.choice([name, name, name.upper(), name.title()])

    def add(self, db: sqlite3.Connection, table: str, shape: Shape) -> None:
        """A table with its columns in any order, under types of any affinity that keeps them."""
        draw, known = self.draw, shape.known and self.draw.random() < 0.5
        columns = ["timestamp", *shape.texts, *shape.numbers, *(["known_at"] if known else [])]
        draw.shuffle(columns)
        notations = {"timestamp": draw.choice([*TEXT, *UNITS]), "known_at": draw.choice([*TEXT, *UNITS])}
        kinds = dict.fromkeys(columns, "TEXT") | {name: draw.choice(["", "BLOB"]) for name in notations if name in columns}
        kinds |= {name: "REAL" if table == "sentiment" else draw.choice(["REAL", "NUMERIC", "", "TEXT"]) for name in shape.numbers}
        kinds |= {"trade_id": "INTEGER"} if "trade_id" in columns else {}
        body = ", ".join(f"{quote(name)} {kinds[name]}" for name in columns)
        keyed = draw.choice(["", f", PRIMARY KEY ({', '.join(shape.key)})", f", PRIMARY KEY ({', '.join(shape.key)}) ) WITHOUT ROWID --"])
        db.execute(f"CREATE TABLE {self.case(table)} ({body}{keyed})" if "--" not in keyed else f"CREATE TABLE {table} ({body}{keyed}")
        for row in self.drawn(table, shape, columns, notations):
            places = ", ".join("?" * len(columns))
            db.execute(f"INSERT INTO {table} ({', '.join(map(quote, columns))}) VALUES ({places})", [row[name] for name in columns])
        found = db.execute(f"SELECT {', '.join(map(quote, columns))} FROM {table}")
        self.rows[table] = [dict(zip(columns, row, strict=True)) for row in found]
        if draw.random() < 0.5:
            db.execute(f"CREATE INDEX by_{table} ON {table} ({shape.key[-1]})")

    def drawn(self, table: str, shape: Shape, columns: list[str], notations: dict[str, str]) -> list[dict[str, object]]:
        """Some rows, each key once, in any order."""
        draw, made = self.draw, dict[object, dict[str, object]]()
        for number in range(draw.randint(1, 60)):
            moment = FIRST + timedelta(hours=draw.randint(0, 200))
            row: dict[str, object] = {"name": draw.choice(["rsi", "Zß"]), "side": draw.choice(["long", "short", "flat"])}
            row["symbol"] = draw.choice(self.symbols)
            for column, at in (("timestamp", moment), ("known_at", moment + timedelta(hours=draw.randint(1, 50)))):
                row[column], ns = stamp(notations[column], at)
                self.times[table + column, row[column]] = ns
            row["known_at"] = row["known_at"] if draw.random() < 0.7 else None
            row |= {name: draw.choice(NUMBERS if name in ALWAYS else (*NUMBERS, None, None)) for name in shape.numbers}
            row["trade_id"] = number * 7 - 100 + 2**40
            made[tuple(row[name] for name in shape.key)] = row
        found = list(made.values())
        draw.shuffle(found)
        return found

    def expected(self, table: str) -> Counter[tuple[object, ...]]:
        """The rows of a table as they are to be found."""
        shape = SHAPES[table]
        return Counter(
            (
                self.times[table + "timestamp", row["timestamp"]],
                None if row.get("known_at") is None else self.times[table + "known_at", row["known_at"]],
                *(row[name] for name in shape.texts),
                *(None if row[name] is None else float(row[name]) for name in shape.numbers),  # type: ignore[arg-type]
            )
            for row in self.rows[table]
        )


def stored(taken: Snapshot, table: str) -> Counter[tuple[object, ...]]:
    """The rows of a table of the snapshot."""
    shape, frame = SHAPES[table], pl.read_parquet(taken.path / "tables" / f"{table}.parquet")
    known = pl.col("known_at_ns") if "known_at_ns" in frame.columns else pl.lit(None, pl.Int64)
    order = [name for name in (frame.columns[0], "ts_ns") if table != "macro_rates" or name == "name"]
    assert frame.select(order).equals(frame.select(order).sort(order))
    return Counter(frame.select("ts_ns", known.alias("known"), *shape.texts, pl.col(shape.numbers).cast(pl.Float64)).rows())


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[random.Random], None]:
    """Blocks, runs, groups and pages of a few rows, so that every seam is met."""

    def draw(by: random.Random) -> None:
        for module, name, sizes in (
            (rows, "_FETCH_ROWS", (3, 512)),
            (rows, "BLOCK_ROWS", (8, 1_000)),
            (ingest, "RUN_ROWS", (10, 1_000)),
            (ingest, "GROUP_ROWS", (5, 100)),
            (ingest, "_PAGE_ROWS", (4, 1_000)),
        ):
            monkeypatch.setattr(module, name, by.choice(sizes))

    return draw


@pytest.mark.parametrize("seed", range(16))
def test_the_snapshot_has_the_rows_that_sqlite_reads(
    seed: int,
    tmp_path: Path,
    small_steps: Callable[[random.Random], None],
    data_cfg: DataConfig,
    markets: dict[str, MarketConfig],
) -> None:
    world = World(seed, tmp_path / "dump.sqlite")
    small_steps(world.draw)
    taken = take_snapshot(tmp_path / "dump.sqlite", tmp_path / "store", data_cfg, markets)
    for table in world.rows:
        assert stored(taken, table) == world.expected(table), table
        assert taken.manifest["counts"][table] == len(world.rows[table])
    num_bars = 0
    for asset_class in classes_in(taken.path, markets, data_cfg):
        frames = {name: validate(name, build_table(name, taken.path, asset_class, markets, data_cfg)) for name in TABLES}
        num_bars += frames["series"].height
    assert num_bars == len(world.rows["series"])
