"""What a second dump of the same universe costs: tables, bars and features of `_b` over those of `_a`, for the real dumps.

CPU-seconds of one process and thread, every class of the dump. The snapshot is taken before the clock starts; features of `_b` go
on from those of `_a`. Dumps lie in the folder PLUSULTRA_REAL_DUMPS, or in `shared/data` beside the checkout;
without them nothing is measured.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

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


def pair(first: str, second: str) -> list[dict[str, Any]]:
    """The second dump over the first."""
    markets = {path.stem: config.load(MarketConfig, path) for path in sorted((ROOT / "configs/markets").glob("*.yaml"))}
    data = config.load(DataConfig, ROOT / "configs/base/data.yaml")
    with tempfile.TemporaryDirectory() as folder:
        one, two = (take_snapshot(DUMPS / f"{name}.sqlite", Path(folder), data, markets).path for name in (first, second))
        columns(one, None)  # what is compiled and loaded once is not counted
        whole, made = columns(one, None)
        more, found = columns(two, made)
    share = sum(more.values()) / sum(whole.values())
    taken, rows = sum(e.num_rows_taken for _, e in found.values()), sum(e.features.height for _, e in found.values())
    size = f"{second} after {first}: {rows:,} bars, {taken:,} taken over"
    parts = ", ".join(f"{part} {whole[part]:.2f} s then {more[part]:.2f} s" for part in whole)
    return [
        {
            "what": f"tables, bars and features ({parts})",
            "size": size,
            "measured": 100 * share,
            "unit": "%",
            "target": 30,
            "holds": share <= 0.3,
        }
    ]


def run() -> list[dict[str, Any]]:
    """Rows of what, size, measured, unit, target, holds."""
    there = [names for names in PAIRS if all((DUMPS / f"{name}.sqlite").exists() for name in names)]
    return [row for names in there for row in pair(*names)]


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
