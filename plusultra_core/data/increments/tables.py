"""Tables of a snapshot from those of an earlier one: what both dumps say alike is taken over without being read.

The gate keeps with each snapshot a version of every owner's rows in every table. Where those of a class are the same in
both snapshots, its frame is; of side tables those that changed are made anew, of the others owners whose rows changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import polars as pl

from plusultra_core.arrays import Int64Array
from plusultra_core.data.contract.frames import sort
from plusultra_core.data.gate.ingest import versions_of
from plusultra_core.data.gate.schema import SHAPES, TableShape
from plusultra_core.data.side_tables import SideTableConfig
from plusultra_core.data.tables import (
    DataConfig,
    Source,
    action_rows,
    build_table,
    frame_of,
    is_mixed,
    known,
    long_rows,
    side_rows,
)
from plusultra_core.errors import ArtifactError
from plusultra_core.market import MarketConfig

Versions = Mapping[str, Mapping[str, str]]
"""Of each table, of each owner."""
_FEW_RUNS = 2  # of rows, read one by one; more are cut out of the whole table
_WHOLE_ROWS = 4_000_000  # most rows of a table that is read whole


@dataclass(frozen=True, slots=True)
class PreviousTable:
    """A frame of one class that was made of an earlier snapshot with the same code, config and markets."""

    snapshot_dir: Path
    frame: pl.DataFrame


@dataclass(frozen=True, slots=True)
class ExtendedTable:
    """A frame, and how many of its rows were taken over as they are."""

    frame: pl.DataFrame
    num_rows_taken: int

    @property
    def num_rows_made(self) -> int:
        """Rows that were read from the snapshot."""
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
    before = None
    if previous is not None and name != "exchange_rates":  # as short as the series that it is made of, and of every class's
        before = _opened(previous.snapshot_dir, markets, cfg)
    if previous is not None and before is not None:
        (old, was), source = before, Source.open(snapshot_dir, markets, cfg)
        members, old_members = (one.members(asset_class) for one in (source, old))
        if name == "side_tables" and any(is_mixed(one, markets.get(asset_class)) for one in (members, old_members)):
            return ExtendedTable(build_table(name, snapshot_dir, asset_class, markets, cfg), 0)  # rates are made of every class's series
        symbols, is_same = frozenset(old_members["symbol"]), members.equals(old_members)
        step = _Step(name, source, source.versions(), was, old.folder, members, is_same, symbols, previous.frame)
        if found := step.taken():
            return found
    return ExtendedTable(build_table(name, snapshot_dir, asset_class, markets, cfg), 0)


def _opened(snapshot_dir: Path, markets: Mapping[str, MarketConfig], cfg: DataConfig) -> tuple[Source, Versions] | None:
    """An earlier snapshot and its versions; None where it is damaged or was made by another config."""
    try:
        source = Source.open(snapshot_dir, markets, cfg)
        return source, source.versions()
    except ArtifactError:
        return None


@dataclass(frozen=True, slots=True)
class _Step:
    """One frame of one class, from an earlier snapshot to a later one."""

    name: str
    source: Source
    now: Versions
    was: Versions
    old_folder: Path
    members: pl.DataFrame
    is_same_class: bool
    old_symbols: frozenset[str]
    frame: pl.DataFrame

    def taken(self) -> ExtendedTable | None:
        """The frame with what can be taken over; None where nothing can."""
        return self.assets() if self.name == "assets" else self.sides() if self.name == "side_tables" else self.rows()

    def assets(self) -> ExtendedTable | None:
        """The same assets; where one leaves its bar to the series, it is asked again."""
        stated = not self.members["bar"].null_count()
        return ExtendedTable(self.frame, self.frame.height) if self.is_same_class and stated else None

    def rows(self) -> ExtendedTable | None:
        """A table with an owner in each row: the rows of those whose version is the same, and those of the others made anew."""
        shape = self.source.cfg.corporate_actions.shape() if self.name == "corporate_actions" else SHAPES[self.name]
        pair = self._versions(shape.table)
        if pair is None:
            return None
        now, was = pair
        every = self.name == "benchmarks"
        symbols = set(self.members["symbol"])
        mine = [owner for owner in now if every or owner in symbols]
        same = [owner for owner in mine if was.get(owner) == now[owner] and (every or owner in self.old_symbols)]
        num_taken = sum(_num_rows(now[owner]) for owner in same)
        if len(same) == len(mine) and num_taken == self.frame.height:
            return ExtendedTable(self.frame, num_taken)
        changed = sorted(set(mine) - set(same))
        made = frame_of(self.name, self._read(shape, now, changed))
        if not same:
            return ExtendedTable(made, 0)
        kept = self.frame.filter(pl.col("symbol").is_in(same))
        return ExtendedTable(pl.concat([kept, made]).sort("symbol", maintain_order=True), num_taken)

    def _read(self, shape: TableShape, versions: Mapping[str, str], owners: list[str]) -> pl.LazyFrame:
        """Rows of some owners out of the table of the snapshot, found by where they lie."""
        lengths = np.array([_num_rows(version) for version in versions.values()], dtype=np.int64)
        place = {owner: i for i, owner in enumerate(versions)}
        starts = np.cumsum(lengths) - lengths
        runs: list[list[int]] = []
        for i in (place[owner] for owner in owners):
            if runs and sum(runs[-1]) == starts[i]:
                runs[-1][1] += int(lengths[i])
            else:
                runs.append([int(starts[i]), int(lengths[i])])
        path = self.source.file(shape.table)
        if self.name == "corporate_actions" or not runs or (len(runs) > _FEW_RUNS and lengths.sum() > _WHOLE_ROWS):
            return action_rows(self.source, owners) if self.name == "corporate_actions" else self.source.read(shape, self._lag_s, owners)
        table = pl.scan_parquet(path) if len(runs) <= _FEW_RUNS else pl.read_parquet(path).lazy()
        return known(pl.concat([table.slice(start, num) for start, num in runs]), self._lag_s)

    @property
    def _lag_s(self) -> int:
        return self.source.cfg.lags.of(self.name)

    def sides(self) -> ExtendedTable:
        """Side tables: the rows that were there, and those that came since; a table that says otherwise is made anew."""
        changed = [side for side in self.source.cfg.side_tables if not self._is_same(side)]
        if not changed:
            return ExtendedTable(self.frame, self.frame.height)
        symbols = self.members["symbol"].to_list()
        since = {side: self._since(side) for side in changed} if self.is_same_class else {}
        fresh = [long_rows(rows, symbols, side) for side, rows in since.items() if rows is not None]
        if len(fresh) == len(changed):
            return ExtendedTable(_merged(self.frame, pl.concat(fresh)), self.frame.height)
        kept = self.frame.filter(~pl.col("table").is_in([side.table for side in changed]))
        made = side_rows(self.source, symbols, changed)
        return ExtendedTable(sort("side_tables", pl.concat([kept, made])), kept.height)

    def _since(self, side: SideTableConfig) -> pl.LazyFrame | None:
        """What a side table has beyond what it had; None where an owner no longer begins with all that it had."""
        pair = self._versions(side.table)
        if pair is None or set(pair[1]) - set(pair[0]):
            return None
        now, was = pair
        grown = [owner for owner in now if now[owner] != was.get(owner)]
        (starts, lengths), (_, old_lengths) = _spans(now, grown), _spans(was, grown)
        if (old_lengths > lengths).any():
            return None
        table = pl.read_parquet(self.source.file(side.table))
        known_before = pl.concat([table.clear(), *(table.slice(*span) for span in zip(starts.tolist(), old_lengths.tolist(), strict=True))])
        if versions_of(known_before, table.columns[0]) != {owner: was[owner] for owner in grown if owner in was}:
            return None
        mine = None if side.symbol_column is None or side.market_wide else {"", *self.members["symbol"]}
        spans = zip(grown, (starts + old_lengths).tolist(), (lengths - old_lengths).tolist(), strict=True)
        parts = [table.slice(start, num) for owner, start, num in spans if mine is None or owner in mine]
        return known(pl.concat([table.clear(), *parts]).lazy(), side.lag_s)

    def _versions(self, table: str) -> tuple[Mapping[str, str], Mapping[str, str]] | None:
        """Those of a table now and before, none where it has no rows; None where it has rows and no versions were kept."""
        for kept, folder in ((self.now, self.source.folder), (self.was, self.old_folder)):
            if table not in kept and (folder / f"{table}.parquet").exists():
                return None
        return self.now.get(table, {}), self.was.get(table, {})

    def _is_same(self, side: SideTableConfig) -> bool:
        """Whether the rows of a side table that reach the class are those of the earlier snapshot."""
        pair = self._versions(side.table)
        if pair is None:
            return False
        now, was = pair
        own = side.symbol_column is not None
        if own and not self.is_same_class:
            return False
        wanted = {"", *self.members["symbol"]} if own and not side.market_wide else {*now, *was}
        return all(now.get(owner) == was.get(owner) for owner in wanted)


def _num_rows(version: str) -> int:
    return int(version.partition("-")[0])


def _spans(versions: Mapping[str, str], owners: Sequence[str]) -> tuple[Int64Array, Int64Array]:
    """First row of each owner in a table, and how many there are; none for those that it does not have."""
    lengths = {owner: _num_rows(version) for owner, version in versions.items()}
    starts = dict(zip(lengths, accumulate(lengths.values(), initial=0), strict=False))
    found = [(starts.get(owner, 0), lengths.get(owner, 0)) for owner in owners]
    return np.array([start for start, _ in found], dtype=np.int64), np.array([num for _, num in found], dtype=np.int64)


def _merged(frame: pl.DataFrame, fresh: pl.DataFrame) -> pl.DataFrame:
    """Rows of the long frame with others among them: of each symbol, those before its first new time lie as they did."""
    since = dict(fresh.group_by("symbol").agg(pl.col("ts_ns").min()).iter_rows())
    runs = frame["symbol"].rle().struct.unnest()
    heads: dict[str | None, pl.DataFrame] = {}
    rest, start = [fresh], 0
    for symbol, num in zip(runs["value"], runs["len"], strict=True):
        rows = frame.slice(start, num)
        before = int(rows["ts_ns"].search_sorted(since[symbol], side="left")) if symbol in since else num
        heads[symbol], start = rows.head(before), start + num
        rest.append(rows.slice(before))
    tails = {rows["symbol"][0]: rows for rows in sort("side_tables", pl.concat(rest)).partition_by("symbol", maintain_order=True)}
    order = sorted({*heads, *tails}, key=lambda symbol: (symbol is not None, symbol or ""))
    return pl.concat([part[symbol] for symbol in order for part in (heads, tails) if symbol in part])
