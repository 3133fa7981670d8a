"""Typed rows of a table on their way into the snapshot: gathered by whose they are, sorted in time, written as Parquet.

A dump may be larger than memory. Rows come in the order of the dump; what does not fit is sorted and laid aside in runs, and
afterwards a few whole symbols at a time are put together from all runs.
"""

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from plusultra_core.arrays import Int64Array
from plusultra_core.data.gate.findings import Finding, ValidationConfig, describe, plain
from plusultra_core.data.gate.rows import Broken, Reader, Tally
from plusultra_core.data.gate.schema import TableShape

RUN_ROWS = 2_000_000
"""Rows held in memory; beyond that they are laid aside."""
RUN_BYTES = 256_000_000
"""Bytes held in memory, where rows are wide."""
GROUP_ROWS = 500_000
"""Rows of whole symbols put together at a time, where one symbol has no more."""
_PAGE_ROWS = 65_536
FOLDER = "tables"
"""Folder of a snapshot with one Parquet file a table."""
QUARANTINE = "quarantine.parquet"
"""File of a snapshot with the rows set aside."""
VERSIONS = "versions.json"
"""File of a snapshot with the version of each owner's rows, by table: what a later dump of the same universe says again."""
MOST_OWNERS = 20_000
"""Owners of a table beyond which no versions are kept."""
_QUARANTINED = {"table": pl.String, "symbol": pl.String, "code": pl.String, "column": pl.String, "row": pl.Int64}
_QUARANTINED |= dict.fromkeys(("timestamp", "value", "reason"), pl.String)
_REMEDY = {"error": "fix the dump", "warning": "kept as it is"}
_ASIDE = ", or set validation.mode to quarantine, which leaves the symbols out"
PLACE, OWNER = "_place", "_owner"
"""Columns of rows on their way: the place in the dump's table, and the number of the owner's name."""


class Names:
    """Numbers for the owners of rows, in the order in which they are met after those known before; none is -1."""

    def __init__(self, known: Sequence[str]) -> None:
        self.names = sorted(known)
        self._kind = pl.Enum(self.names)

    def encode(self, values: pl.Series) -> pl.Series:
        """The number of each name."""
        codes = values.cast(self._kind, strict=False)
        if codes.null_count() > values.null_count():
            self.names += values.filter(codes.is_null() & values.is_not_null()).unique(maintain_order=True).to_list()
            self._kind = pl.Enum(self.names)
            codes = values.cast(self._kind)
        return codes.to_physical().cast(pl.Int32).fill_null(-1).alias(OWNER)

    def order(self) -> Int64Array:
        """Numbers in the order of the names, none first."""
        return np.array([-1, *sorted(range(len(self.names)), key=self.names.__getitem__)], np.int64)

    def decode(self, codes: pl.Series) -> pl.Series:
        """The names again, as categories."""
        known = pl.select(pl.when(codes >= 0).then(codes)).to_series().cast(pl.UInt32)
        return known.cat.to(pl.Enum(self.names))


@dataclass(slots=True)
class Sorter:
    """Rows of one table, given in any order, got back in groups of whole owners, each sorted by owner, ts_ns and `keys`."""

    work: Path
    names: Names
    keys: tuple[str, ...]
    """Further columns that tell the rows of one owner and time apart."""
    num_rows: int = 0
    _held: list[pl.DataFrame] = field(default_factory=list)
    _num_held: int = 0
    _bytes_held: int = 0
    _bytes: int = 0
    _runs: list[tuple[Path, dict[int, tuple[int, int]]]] = field(default_factory=list)

    def add(self, frame: pl.DataFrame) -> None:
        """Take some rows."""
        self._held.append(frame)
        self._num_held += frame.height
        self.num_rows += frame.height
        size = int(frame.estimated_size())
        self._bytes, self._bytes_held = self._bytes + size, self._bytes_held + size
        if self._num_held >= RUN_ROWS or self._bytes_held >= RUN_BYTES:
            self._lay_aside()

    def groups(self) -> Iterator[pl.DataFrame]:
        """The rows, each group once."""
        if not self._runs:
            held, self._held = self._held, []
            if held:
                yield self._sort(pl.concat(held))
            return
        if self._held:
            self._lay_aside()
        for owners in self._parts():
            yield self._sort(pl.concat([part for run in self._runs for part in _read(run, owners)]))

    def forget(self) -> None:
        """Remove what was laid aside."""
        for path, _ in self._runs:
            path.unlink()
        self._runs, self._held = [], []

    def _parts(self) -> Iterator[list[int]]:
        """Owners in the order of their names, so many that their rows make a group."""
        most = min(GROUP_ROWS, RUN_BYTES * self.num_rows // max(1, self._bytes))
        part: list[int] = []
        rows = 0
        for owner in self.names.order().tolist():
            size = sum(spans.get(owner, (0, 0))[1] for _, spans in self._runs)
            if part and rows + size > most:
                yield part
                part, rows = [], 0
            part, rows = [*part, owner] if size else part, rows + size
        if part:
            yield part

    def _lay_aside(self) -> None:
        frame = pl.concat(self._held).sort(OWNER, maintain_order=True)
        self._held, self._num_held, self._bytes_held = [], 0, 0
        path = self.work / f"{len(self._runs)}.arrow"
        frame.write_ipc(path, compression="uncompressed")
        runs = frame[OWNER].rle().struct.unnest()
        ends = runs["len"].cum_sum()
        self._runs.append((path, dict(zip(runs["value"], zip(ends - runs["len"], runs["len"], strict=True), strict=True))))

    def _sort(self, frame: pl.DataFrame) -> pl.DataFrame:
        order = self.names.order()[1:]
        rank = OWNER
        if (order[:-1] > order[1:]).any():
            ranks = np.empty(len(order), np.int32)
            ranks[order] = np.arange(len(order), dtype=np.int32)
            frame = frame.with_columns(_rank=pl.Series([*ranks, -1], dtype=pl.Int32).gather(frame[OWNER]))
            rank = "_rank"
        by = [rank, "ts_ns", *self.keys]
        if not self.keys and frame["ts_ns"].is_sorted():
            by = [rank]
        if by != [rank] or not frame[rank].is_sorted():
            frame = frame.sort(by, maintain_order=True)
        return frame.drop("_rank", strict=False)


def _read(run: tuple[Path, dict[int, tuple[int, int]]], owners: Sequence[int]) -> list[pl.DataFrame]:
    """The rows of some owners out of a run, in as few pieces as they lie in."""
    path, spans = run
    pieces: list[list[int]] = []
    for start, size in sorted(spans[owner] for owner in owners if owner in spans):
        if pieces and sum(pieces[-1]) == start:
            pieces[-1][1] += size
        else:
            pieces.append([start, size])
    return [pl.scan_ipc(path).slice(start, size).collect() for start, size in pieces]


def find_twice(frame: pl.DataFrame, keys: Sequence[str], names: Names | None, tally: Tally) -> None:
    """Count rows that share `keys` with another, in a frame where such rows lie side by side; not those without a time."""
    same = pl.all_horizontal(pl.col(key).eq_missing(pl.col(key).shift()) for key in keys) & (pl.int_range(pl.len()) > 0)
    present = pl.col("ts_ns" if "ts_ns" in keys else keys[0]).is_not_null()
    found = frame.select(same & present).to_series()
    if found.any():
        twice = frame.filter(found | found.shift(-1, fill_value=False))
        tally.add(twice[PLACE].to_numpy().astype(np.int64), None if names is None else names.decode(twice[OWNER]).cast(pl.String))


class TableFile:
    """One Parquet file of a snapshot, written group by group; equal rows give equal bytes."""

    def __init__(self, path: Path, owner: str | None = None) -> None:
        self.path, self.owner = path, owner
        self.versions: dict[str, str] = {}
        """Of each owner: rows and their sha256; the rows of an owner are written at once."""
        self._writer: pq.ParquetWriter | None = None

    def write(self, frame: pl.DataFrame) -> None:
        """Append rows; every frame has the columns of the first."""
        table = frame.to_arrow()
        if self._writer is None:
            texts = [name for name, dtype in frame.schema.items() if dtype in (pl.String, pl.Enum)]
            self._writer = pq.ParquetWriter(self.path, table.schema, compression="lz4", use_dictionary=texts, store_schema=False)
        self._writer.write_table(table, row_group_size=_PAGE_ROWS)
        if self.owner is not None:
            self.versions |= versions_of(frame, self.owner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()
        if len(self.versions) > MOST_OWNERS:
            self.versions = {}


def versions_of(frame: pl.DataFrame, owner: str) -> dict[str, str]:
    """Of each owner of some rows, whose rows lie together: how many, and 16 hex digits of their sha256, as `rows-digest`.

    Equal rows of equal columns have equal versions, whatever else the table holds.
    """
    runs = frame.select(pl.col(owner).rle()).unnest(owner)
    ends = np.cumsum(runs["len"].to_numpy())
    head = repr([(name, str(dtype)) for name, dtype in frame.schema.items() if name != owner]).encode()
    columns = [part for name in frame.columns if name != owner for part in _content(frame[name])]
    found = {}
    for name, start, end in zip(runs["value"].cast(pl.String), (ends - runs["len"].to_numpy()).tolist(), ends.tolist(), strict=True):
        total = hashlib.sha256(head)
        for values, at in columns:
            total.update((values[start:end] if at is None else values[at[start] : at[end]]).data)
        found["" if name is None else name] = f"{end - start}-{total.hexdigest()[:16]}"
    return found


def _content(column: pl.Series) -> list[tuple[np.ndarray, Int64Array | None]]:
    """The bytes that say what stands in a column, nulls among them: arrays by row, or with the place at which each row's begin."""
    if column.dtype.is_numeric():
        missing = np.nan if column.dtype.is_float() else np.iinfo(np.int64).min  # neither stands in a sound table
        return [((column.fill_null(missing) if column.null_count() else column).to_numpy(), None)]
    texts = column.cast(pl.String)
    lengths = texts.str.len_bytes().cast(pl.Int64).fill_null(-1).to_numpy()
    content = np.frombuffer("".join(texts.fill_null("")).encode(), np.uint8)
    return [(lengths, None), (content, np.append(0, np.cumsum(np.maximum(lengths, 0))))]


def leave_out(path: Path, column: str, symbols: Sequence[str]) -> None:
    """Write the table of a snapshot anew without the rows of some symbols; rows without a symbol stay."""
    kept = path.with_suffix(".kept")
    with pq.ParquetFile(path) as source, TableFile(kept) as target:
        gone = pl.col(column).is_in(list(symbols)).fill_null(False)
        for number in range(source.num_row_groups):
            target.write(pl.DataFrame(source.read_row_group(number)).filter(~gone))
    kept.replace(path)


def quarantine(
    shape: TableShape, code: str, column: str, expected: str, tally: Tally, cells: Mapping[int, Mapping[str, object]]
) -> pl.DataFrame:
    """The rows that break one rule, as they stand in the dump; `row` counts from 1 in the order of the table."""

    def texts(name: str | None) -> list[str | None]:
        found = [None if name is None else cells[place][name] for place in tally.places.tolist()]
        return [None if value is None else str(plain(value)) for value in found]

    told = {"table": shape.table, "column": column, "code": code, "reason": f"expected {expected}"}
    rows = {"row": tally.places + 1, "timestamp": texts(shape.time), "symbol": texts(shape.symbol), "value": texts(column)}
    return pl.DataFrame({**rows, **told}, schema_overrides=_QUARANTINED).select(*_QUARANTINED)


def tell(db: sqlite3.Connection, reader: Reader, told: Sequence[Broken], cfg: ValidationConfig) -> tuple[list[Finding], list[pl.DataFrame]]:
    """Findings of the broken rules of one table, with rows as they stand in the dump; and in quarantine mode the rows to set aside."""
    shape = reader.shape
    aside = [rule for rule in told if cfg.mode == "quarantine" and rule.level == "error" and rule.by_symbol and rule.tally.told()]
    places = {place for rule in told for place in rule.tally.places[: None if rule in aside else cfg.sample_rows].tolist()}
    cells = reader.fetch(db, places)
    findings = []
    for rule in told:
        names = list(dict.fromkeys([*filter(None, (shape.time, shape.symbol)), *shape.keys, rule.column]))
        shown = tuple({name: plain(cells[at][name]) for name in names} for at in rule.tally.places[: cfg.sample_rows].tolist())
        symbols = rule.tally.told() if rule.by_symbol else None
        remedy = _REMEDY[rule.level] + (_ASIDE if rule.level == "error" and symbols and cfg.mode == "strict" else "")
        message = describe(f"{shape.table}.{rule.column}", rule.tally.count, shown, rule.expected, remedy)
        if rule.code == "offset_converted":
            message = f"{shape.table}.{rule.column}: {rule.expected}"
        message += " (the text is read as numbers)" if rule.code == "numeric_text" else ""
        findings.append(Finding(rule.level, rule.code, shape.table, rule.column, message, shown, symbols))
    return findings, [quarantine(shape, rule.code, rule.column, rule.expected, rule.tally, cells) for rule in aside]


def write_quarantine(into: Path, parts: Sequence[pl.DataFrame]) -> None:
    """The rows set aside, in the order in which they were found; a file without rows where there are none."""
    with TableFile(into / QUARANTINE) as file:
        file.write(pl.concat([pl.DataFrame(schema=_QUARANTINED), *parts]))


def soften(findings: Sequence[Finding], cfg: ValidationConfig) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """In quarantine mode an error whose symbols are all known becomes a warning, and the symbols go."""
    if cfg.mode == "strict":
        return tuple(findings), ()
    softened = []
    symbols: set[str] = set()
    for finding in findings:
        if finding.level == "error" and finding.symbols:
            symbols |= set(finding.symbols)
            message = f"{finding.message}; {len(finding.symbols)} symbols quarantined"
            finding = replace(finding, level="warning", message=message)
        softened.append(finding)
    return tuple(softened), tuple(sorted(symbols))
