"""Tables of a snapshot from those of an earlier one: what both dumps say alike is taken over without being read.

The gate keeps with each snapshot a version of every owner's rows in every table. Where those of a class are the same in
both snapshots, its frame is; to side tables what came since is added, other tables are cut out of the rows of every class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from plusultra_core.data.gate.schema import SHAPES, TableShape
from plusultra_core.data.increments.pair import Pair, cut, joined, num_rows, pair_of
from plusultra_core.data.increments.sides import extend_sides
from plusultra_core.data.tables import TABLES, DataConfig, action_rows, build_table, frame_of, known
from plusultra_core.market import MarketConfig

_FEW_RUNS = 2  # of rows, read one by one; more are cut out of the whole table
_WHOLE_ROWS = 4_000_000  # most rows of a table that is read whole


@dataclass(frozen=True, slots=True)
class PreviousTable:
    """A frame of one class that was made of an earlier snapshot with the same code, config and markets."""

    snapshot_dir: Path
    frame: pl.DataFrame


@dataclass(frozen=True, slots=True)
class ExtendedTable:
    """A frame, and how many of its rows were said before."""

    frame: pl.DataFrame
    num_rows_taken: int

    @property
    def num_rows_made(self) -> int:
        """Rows that are new, or whose owner has others than before."""
        return self.frame.height - self.num_rows_taken


def extend_table(
    name: str,
    snapshot_dir: Path,
    asset_class: str,
    markets: Mapping[str, MarketConfig],
    cfg: DataConfig,
    previous: PreviousTable | None,
) -> ExtendedTable:
    """What `build_table` gives, byte by byte, taking over what the earlier snapshot said alike.

    An earlier snapshot that is damaged, or none that this config would make, gives nothing.
    Raises  as `build_table`.
    """
    if previous is not None and name in TABLES and name != "exchange_rates":  # as short as the series that it is made of
        pair = pair_of(previous.snapshot_dir, snapshot_dir, asset_class, markets, cfg)
        if pair is not None and (found := _extended(name, pair, previous.frame)):
            return found
    return ExtendedTable(build_table(name, snapshot_dir, asset_class, markets, cfg), 0)


def _extended(name: str, pair: Pair, frame: pl.DataFrame) -> ExtendedTable | None:
    """The frame with what can be taken over; None where nothing can."""
    if name == "assets":  # where one leaves its bar to the series, it is asked again
        return ExtendedTable(frame, frame.height) if pair.is_same_class and not pair.members["bar"].null_count() else None
    if name == "side_tables":
        found = extend_sides(pair, frame)
        return None if found is None else ExtendedTable(*found)
    return _rows(name, pair, frame)


def _rows(name: str, pair: Pair, frame: pl.DataFrame) -> ExtendedTable | None:
    """A table with an owner in each row: as it was where every owner says what he said, else cut out of the rows of all."""
    shape = pair.source.cfg.corporate_actions.shape() if name == "corporate_actions" else SHAPES[name]
    versions = pair.versions(shape.table)
    if versions is None:
        return None
    now, was = versions
    every = name == "benchmarks"
    mine = [owner for owner in now if every or owner in pair.symbols]
    same = [owner for owner in mine if was.get(owner) == now[owner] and (every or owner in pair.old_symbols)]
    num_taken = sum(num_rows(now[owner]) for owner in same)
    if len(same) == len(mine) and num_taken == frame.height:
        return ExtendedTable(frame, num_taken)
    whole = pair.whole(name, shape.table) if mine else None
    if whole is not None:
        spans = pair.spans[shape.table]
        return ExtendedTable(cut(whole, [spans[owner] for owner in mine]), num_taken)
    taken = set(same)
    made = frame_of(name, _read(name, pair, shape, [owner for owner in mine if owner not in taken]))
    if not same:
        return ExtendedTable(made, 0)
    kept = frame.filter(pl.col("symbol").is_in(same))
    return ExtendedTable(pl.concat([kept, made]).sort("symbol", maintain_order=True), num_taken)


def _read(name: str, pair: Pair, shape: TableShape, owners: list[str]) -> pl.LazyFrame:
    """Rows of some owners out of a table of the snapshot that is not read whole for all, found by where they lie."""
    source, spans = pair.source, pair.spans.get(shape.table, {})
    if name == "corporate_actions":
        return action_rows(source, owners)
    runs = joined(spans[owner] for owner in owners)
    lag_s = source.cfg.lags.of(name)
    if not runs or (len(runs) > _FEW_RUNS and sum(num for _, num in spans.values()) > _WHOLE_ROWS):
        return source.read(shape, lag_s, owners)
    path = source.file(shape.table)
    table = pl.scan_parquet(path) if len(runs) <= _FEW_RUNS else pl.read_parquet(path).lazy()
    return known(pl.concat([table.slice(start, num) for start, num in runs]), lag_s)
