"""What a second dump of the same universe costs: tables, bars and features of `_b` after `_a`, for the real dumps.

CPU-seconds of one process and thread, best of five, every class of the dump. The snapshot is taken before the clock starts, and
what was read of its files is forgotten before each run;
tables, bars and features of `_b` go on from those of `_a`. They are held against the first dump, as the target says it, and
against `_b` built without `_a`, which is what is saved: a second dump that is much longer than the first costs more than the
first. A made universe of 500 symbols then grows by 21 bars each, features alone. Dumps lie in the folder PLUSULTRA_REAL_DUMPS,
or in `shared/data` beside the checkout; without them only the made one is measured.
"""

import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import polars as pl
from data_features import REPEATS, make, shipped
from timing import cpu_seconds

from plusultra_core import config
from plusultra_core.data import tables
from plusultra_core.data.increments import files
from plusultra_core.data.increments import pair as pair_module
from plusultra_core.data.increments.bars import PreviousBars, extend_bars
from plusultra_core.data.increments.tables import PreviousTable, extend_table
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import DataConfig, classes_in
from plusultra_core.features.build import FeaturesConfig
from plusultra_core.features.extend import Extended, Previous, extend
from plusultra_core.market import MarketConfig

ROOT = Path(__file__).resolve().parents[1]
DUMPS = Path(os.environ.get("PLUSULTRA_REAL_DUMPS", ROOT.parent / "shared" / "data"))
PAIRS = (("market_2017_a", "market_2017_b"), ("crypto_2026_a", "crypto_2026_b"))
_REPEATS = 5
READ = ("series", "assets", "corporate_actions", "indicators", "side_tables")


@dataclass(frozen=True)
class Made:
    """What was made of one class, for the next dump to go on from."""

    snapshot: Path
    tables: dict[str, pl.DataFrame]
    bars: pl.DataFrame
    found: Extended

    def table(self, name: str) -> PreviousTable:
        """A table as it was."""
        return PreviousTable(self.snapshot, self.tables[name])

    def before_bars(self) -> PreviousBars:
        """What the bars were made of."""
        return PreviousBars(self.tables["series"], self.tables["assets"], self.tables["corporate_actions"], self.bars)

    def before_features(self) -> Previous:
        """What the features were made of."""
        beside = {name: self.tables[name] for name in ("indicators", "side_tables")}
        return Previous(bars=self.bars, **beside, features=self.found.features, state=self.found.state)


def columns(snapshot: Path, before: dict[str, Made] | None) -> tuple[dict[str, float], dict[str, Made]]:
    """Seconds of tables, bars and features of every class, and what the next dump goes on from."""
    markets = {path.stem: config.load(MarketConfig, path) for path in sorted((ROOT / "configs/markets").glob("*.yaml"))}
    data, cfg = (
        config.load(kind, ROOT / f"configs/base/{name}.yaml") for kind, name in ((DataConfig, "data"), (FeaturesConfig, "features"))
    )
    seconds, made = dict.fromkeys(("tables", "bars", "features"), 0.0), {}
    for name in classes_in(snapshot, markets, data):
        was = (before or {}).get(name)
        clock = [time.process_time()]
        read = {table: extend_table(table, snapshot, name, markets, data, was.table(table) if was else None).frame for table in READ}
        clock.append(time.process_time())
        sources = (read["series"], read["assets"], read["corporate_actions"], markets[name], data.bars)
        bars = extend_bars(was.before_bars() if was else None, *sources).bars
        clock.append(time.process_time())
        beside = (read["indicators"], read["side_tables"], markets[name], cfg)
        found = extend(was.before_features() if was else None, bars, *beside)
        clock.append(time.process_time())
        for part, start, end in zip(seconds, clock, clock[1:], strict=False):
            seconds[part] += end - start
        made[name] = Made(snapshot, read, bars, found)
    return seconds, made


def best(snapshot: Path, before: dict[str, Made] | None) -> tuple[dict[str, float], dict[str, Made]]:
    """The cheapest of several runs of `columns`, each of which reads the files of the snapshot anew."""

    def run() -> tuple[dict[str, float], dict[str, Made]]:
        forget()
        return columns(snapshot, before)

    return min((run() for _ in range(_REPEATS)), key=lambda found: sum(found[0].values()))


def forget() -> None:
    """Forget what was read of snapshots, as a process that has just begun."""
    files._kept.clear()
    for module in (files, pair_module, tables):
        for kept in vars(module).values():
            if hasattr(kept, "cache_clear"):
                kept.cache_clear()


def pair(first: str, second: str) -> list[dict[str, Any]]:
    """The second dump over the first, and over itself built whole."""
    markets = {path.stem: config.load(MarketConfig, path) for path in sorted((ROOT / "configs/markets").glob("*.yaml"))}
    data = config.load(DataConfig, ROOT / "configs/base/data.yaml")
    with tempfile.TemporaryDirectory() as folder:
        one, two = (take_snapshot(DUMPS / f"{name}.sqlite", Path(folder), data, markets).path for name in (first, second))
        columns(one, None)  # what is compiled and loaded once is not counted
        was, made = best(one, None)
        whole, _ = best(two, None)
        more, found = best(two, made)
    before = sum(one.bars.height for one in made.values())
    taken, rows = sum(one.found.num_rows_taken for one in found.values()), sum(one.bars.height for one in found.values())
    size = f"{second} after {first}: {before:,} bars, then {rows:,}, {taken:,} taken over"
    told = ", ".join(f"{part} {was[part]:.2f} s, then {more[part]:.2f} s, whole {whole[part]:.2f} s" for part in was)
    return [
        share(f"second: tables, bars and features, of the first dump's time ({told})", size, sum(more.values()), sum(was.values()), 30),
        share("second: tables, bars and features, of its own time without the first", size, sum(more.values()), sum(whole.values()), None),
        share("second: features, of the first dump's time", size, more["features"], was["features"], None),
        share("second: features, of their own time without the first", size, more["features"], whole["features"], None),
    ]


def share(what: str, size: str, seconds: float, of: float, target: float | None) -> dict[str, Any]:
    """A row of the table, percent."""
    measured = 100 * seconds / of
    return {"what": what, "size": size, "measured": measured, "unit": "%", "target": target, "holds": target is None or measured <= target}


def month() -> dict[str, Any]:
    """Features of a made universe that grows by 21 bars, of the time of all."""
    market, cfg = shipped()
    frames = make(500, 2_520 + 21)
    end_ns = int(frames["bars"]["ts_ns"].unique().sort()[-22])
    early = {name: frame.filter(pl.col("known_ns") <= end_ns) for name, frame in frames.items()}
    first = extend(None, **early, market=market, cfg=cfg)
    previous = Previous(**early, features=first.features, state=first.state)
    seconds = [cpu_seconds(REPEATS, extend, known, **frames, market=market, cfg=cfg) for known in (previous, None)]
    return share(
        "second: features of a made universe, of their own time without the first", "500 x 2,520 bars, then 21 more", *seconds, None
    )


def run() -> list[dict[str, Any]]:
    """Rows of what, size, measured, unit, target, holds."""
    there = [names for names in PAIRS if all((DUMPS / f"{name}.sqlite").exists() for name in names)]
    return [*(row for names in there for row in pair(*names)), month()]


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
