"""What a second dump of the same universe costs: tables, bars and features of `_b` after `_a`, for the real dumps.

CPU-seconds of one process and thread, best of two, every class of the dump. The snapshot is taken before the clock starts; features
of `_b` go on from those of `_a`. They are held against the first dump, as the target says it, and against `_b` built without `_a`,
which is what is saved: a second dump that is much longer than the first costs more than the first. A made universe of 500 symbols
then grows by 21 bars each, features alone. Dumps lie in the folder PLUSULTRA_REAL_DUMPS, or in `shared/data` beside the checkout;
without them only the made one is measured.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import polars as pl
from data_features import REPEATS, make, shipped
from timing import cpu_seconds

from plusultra_core import config
from plusultra_core.data.bars import build_bars
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import DataConfig, build_table, classes_in
from plusultra_core.features.build import FeaturesConfig
from plusultra_core.features.extend import Extended, Previous, extend
from plusultra_core.market import MarketConfig

ROOT = Path(__file__).resolve().parents[1]
DUMPS = Path(os.environ.get("PLUSULTRA_REAL_DUMPS", ROOT.parent / "shared" / "data"))
PAIRS = (("market_2017_a", "market_2017_b"), ("crypto_2026_a", "crypto_2026_b"))
READ = ("series", "assets", "corporate_actions", "indicators", "side_tables")


def columns(
    snapshot: Path, before: dict[str, tuple[Previous, Extended]] | None
) -> tuple[dict[str, float], dict[str, tuple[Previous, Extended]]]:
    """Seconds of tables, bars and features of every class, and what the next dump goes on from."""
    markets = {path.stem: config.load(MarketConfig, path) for path in sorted((ROOT / "configs/markets").glob("*.yaml"))}
    data, cfg = (
        config.load(kind, ROOT / f"configs/base/{name}.yaml") for kind, name in ((DataConfig, "data"), (FeaturesConfig, "features"))
    )
    seconds, made = dict.fromkeys(("tables", "bars", "features"), 0.0), {}
    for name in classes_in(snapshot, markets, data):
        clock = [time.process_time()]
        tables = {table: build_table(table, snapshot, name, markets, data) for table in READ}
        clock.append(time.process_time())
        bars = build_bars(tables["series"], tables["assets"], tables["corporate_actions"], markets[name], data.bars)
        clock.append(time.process_time())
        beside = {table: tables[table] for table in ("indicators", "side_tables")}
        found = extend(before[name][0] if before and name in before else None, bars, **beside, market=markets[name], cfg=cfg)
        clock.append(time.process_time())
        for part, start, end in zip(seconds, clock, clock[1:], strict=False):
            seconds[part] += end - start
        made[name] = (Previous(bars=bars, **beside, features=found.features, state=found.state), found)
    return seconds, made


def best(
    snapshot: Path, before: dict[str, tuple[Previous, Extended]] | None
) -> tuple[dict[str, float], dict[str, tuple[Previous, Extended]]]:
    """The cheaper of two runs of `columns`."""
    return min((columns(snapshot, before) for _ in range(2)), key=lambda found: sum(found[0].values()))


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
    before = sum(e.features.height for _, e in made.values())
    taken, rows = sum(e.num_rows_taken for _, e in found.values()), sum(e.features.height for _, e in found.values())
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
