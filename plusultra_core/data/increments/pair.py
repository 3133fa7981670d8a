"""A snapshot and an earlier one that the same config made, seen from one class: what the versions of their rows say of both."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import polars as pl

from plusultra_core.artifacts import MANIFEST
from plusultra_core.data.gate.ingest import FOLDER, VERSIONS
from plusultra_core.data.increments.files import Stamp, is_short, kept, read_whole, stamp_of
from plusultra_core.data.tables import DataConfig, Source, frame_of, is_mixed, known, named_actions, versions_in
from plusultra_core.errors import ArtifactError
from plusultra_core.market import MarketConfig

Versions = Mapping[str, Mapping[str, str]]
"""Of each table, of each owner."""
Span = tuple[int, int]
"""First row and how many."""
_Stamps = tuple[Stamp | None, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two snapshots, and the class in both."""

    source: Source
    old: Source
    stamps: tuple[_Stamps, _Stamps]
    now: Versions
    was: Versions
    files: tuple[frozenset[str], frozenset[str]]
    """Names of the tables that lie in each."""
    spans: Mapping[str, Mapping[str, Span]]
    """Where the rows of each owner lie in each table of the later one."""
    members: pl.DataFrame
    symbols: frozenset[str]
    old_symbols: frozenset[str]
    is_same_class: bool
    market: MarketConfig | None
    is_mixed: bool
    """In one of the two an asset is quoted in other money than the account's."""

    def versions(self, table: str) -> tuple[Mapping[str, str], Mapping[str, str]] | None:
        """Those of a table now and before, none where it has no rows; None where it has rows and no versions were kept."""
        for versions, files in zip((self.now, self.was), self.files, strict=True):
            if table not in versions and f"{table}.parquet" in files:
                return None
        return self.now.get(table, {}), self.was.get(table, {})

    def path(self, table: str) -> Path:
        """Where a table of the later snapshot lies."""
        return self.source.folder / f"{table}.parquet"

    def whole(self, name: str, table: str) -> pl.DataFrame | None:
        """A table of the contract with the rows of every class, made once for all of them; None where it is long or not there."""
        path, cfg = self.path(table), self.source.cfg
        if not is_short(path):
            return None
        actions = cfg.corporate_actions if name == "corporate_actions" else None
        lag_s = cfg.lags.of(name) if actions is None else actions.lag_s

        def made() -> pl.DataFrame:
            rows = known(read_whole(path).lazy(), lag_s)
            return frame_of(name, rows if actions is None else named_actions(rows, actions))

        return kept(("frame", path, stamp_of(path), name, actions or lag_s), made)


def pair_of(old_dir: Path, snapshot_dir: Path, asset_class: str, markets: Mapping[str, MarketConfig], cfg: DataConfig) -> Pair | None:
    """The two snapshots; None where the earlier one is damaged, or this config would not make it.

    Manifest, assets, versions and the list of tables of both are looked at anew when they change, and so at every call; a table
    itself when it is read. Of one that says what it said before, the rows that were made then are taken, and it is not read.
    Raises  ArtifactError where the later one must be taken again.
    """
    return _pair(old_dir, _stamps(old_dir), snapshot_dir, _stamps(snapshot_dir), asset_class, tuple(sorted(markets.items())), cfg)


def cut(frame: pl.DataFrame, spans: Iterable[Span]) -> pl.DataFrame:
    """Some runs of rows, one after the other."""
    runs = joined(spans)
    if len(runs) < 2:
        return frame.slice(*runs[0]) if runs else frame.clear()
    return pl.concat([frame.slice(start, num) for start, num in runs], rechunk=True)


def joined(spans: Iterable[Span]) -> list[Span]:
    """Runs of rows, those that lie side by side as one."""
    runs: list[Span] = []
    for start, num in spans:
        if runs and sum(runs[-1]) == start:
            runs[-1] = runs[-1][0], runs[-1][1] + num
        else:
            runs.append((start, num))
    return runs


def _stamps(snapshot_dir: Path) -> _Stamps:
    folder = snapshot_dir / FOLDER
    return tuple(stamp_of(path) for path in (snapshot_dir / MANIFEST, snapshot_dir / VERSIONS, folder, folder / "assets.parquet"))


@lru_cache(maxsize=32)
def _pair(
    old_dir: Path,
    old_stamps: _Stamps,
    snapshot_dir: Path,
    stamps: _Stamps,
    asset_class: str,
    markets: tuple[tuple[str, MarketConfig], ...],
    cfg: DataConfig,
) -> Pair | None:
    by_class = dict(markets)
    source = Source.open(snapshot_dir, by_class, cfg)
    now = versions_in(snapshot_dir)
    try:
        old = Source.open(old_dir, by_class, cfg)
        was = versions_in(old_dir)
    except ArtifactError:
        return None
    members, old_members = (one.members(asset_class) for one in (source, old))
    market = by_class.get(asset_class)
    is_same_class = members is old_members or members.equals(old_members)
    return Pair(
        source=source,
        old=old,
        stamps=(old_stamps, stamps),
        now=now,
        was=was,
        files=(_names(source.folder, stamps), _names(old.folder, old_stamps)),
        spans=_spans(snapshot_dir, stamps),
        members=members,
        symbols=frozenset(members["symbol"].to_list()),
        old_symbols=frozenset(old_members["symbol"].to_list()),
        is_same_class=is_same_class,
        market=market,
        is_mixed=any(is_mixed(one, market) for one in ((members,) if is_same_class else (members, old_members))),
    )


@lru_cache(maxsize=8)
def _names(folder: Path, stamps: _Stamps) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir())


@lru_cache(maxsize=4)
def _spans(snapshot_dir: Path, stamps: _Stamps) -> Mapping[str, Mapping[str, Span]]:
    found = {}
    for table, versions in versions_in(snapshot_dir).items():
        lengths = [num_rows(version) for version in versions.values()]
        found[table] = dict(zip(versions, zip(accumulate(lengths, initial=0), lengths, strict=False), strict=True))
    return found


def num_rows(version: str) -> int:
    """How many rows a version stands for."""
    return int(version.partition("-")[0])
