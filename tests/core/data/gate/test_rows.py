"""Rows come out of SQLite as the types that their columns should have, and what does not fit is counted."""

import sqlite3
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import pytest

from plusultra_core.data.gate import rows
from plusultra_core.data.gate.rows import Reader, Tally, mixed_types
from plusultra_core.data.gate.schema import TableShape

Fill = Callable[[Sequence[tuple[object, ...]]], sqlite3.Connection]
SHAPE = TableShape(
    table="t", required=("at", "who", "note"), time="at", symbol="who", keys=("at", "who"), positive=("price",), finite=("size",)
)


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Fill:
    """A table without declared types, read three rows at a time and four or more to a block."""
    monkeypatch.setattr(rows, "_FETCH_ROWS", 3)
    monkeypatch.setattr(rows, "BLOCK_ROWS", 4)

    def make(cells: Sequence[tuple[object, ...]]) -> sqlite3.Connection:
        db = sqlite3.connect(":memory:")
        db.execute("CREATE TABLE t (at, who, note, price, size, ts_ns)")
        db.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, 0)", cells)
        return db

    return make


def read(db: sqlite3.Connection, *not_numbers: str) -> tuple[pl.DataFrame, Reader]:
    reader = Reader(SHAPE, 2, frozenset(not_numbers))
    blocks = list(reader.blocks(db))
    assert sum(block.height for block in blocks) == reader.num_rows
    return pl.concat(blocks, how="vertical_relaxed"), reader


def test_columns_are_read_as_what_they_hold(fill: Fill) -> None:
    frame, reader = read(fill([(5, "A", "x", 1, 2.5), (6, "B", None, 1.5, None), (7, "A", b"\0", None, 3)]))
    assert frame.schema == {"at": pl.Int64, "who": pl.String, "price": pl.Float64, "size": pl.Float64, "note": pl.String}
    assert frame.rows() == [(5, "A", 1.0, 2.5, "x"), (6, "B", 1.5, None, None), (7, "A", None, 3.0, None)]
    assert reader.kinds["at"] is int and not reader.mixed and not reader.odd


def test_rows_without_values_take_the_type_of_the_others(fill: Fill) -> None:
    reader = Reader(SHAPE, 2)
    first, last = reader.blocks(fill([(None, None, None, None, None)] * 9 + [(5, "A", "x", 1.0, 1.0)] * 2))
    assert (first.height, first["at"].null_count()) == (6, 6)
    assert last["at"].to_list() == [None] * 3 + [5, 5] and last["who"].to_list() == [None] * 3 + ["A", "A"]
    assert reader.kinds["at"] is int and not reader.mixed


def test_text_that_is_a_number_is_read_as_one(fill: Fill) -> None:
    frame, reader = read(fill([(n, "A", "", f"{n}.5", n) for n in range(1, 9)]))
    assert frame["price"].to_list() == [n + 0.5 for n in range(1, 9)]
    assert reader.odd["price"].count == 8 and reader.odd["price"].told() == ("A",) and not reader.spoiled


@pytest.mark.parametrize("odd", ["dear", "1,5", "inf", "nan", "", b"\0"])
def test_what_is_no_number_counts_as_larger_than_all(odd: object, fill: Fill) -> None:
    cells = [(n, "A", "", "2.5" if n == 2 else odd if n == 6 else float(n), 1.0) for n in range(1, 9)]
    frame, reader = read(fill(cells))
    assert reader.spoiled == {"price"} and reader.odd["price"].places.tolist() == [1, 5]
    assert frame["price"].to_list()[5] == float("inf") and frame["price"].to_list()[1] == 2.5
    frame, reader = read(fill(cells), "price")
    assert frame["price"].to_list()[5] == frame["price"].to_list()[1] == float("inf")


def test_a_key_of_several_types_is_told_with_its_rarer_rows(fill: Fill) -> None:
    db = fill([(n, "A" if n != 5 else 7, "", 1.0, 1.0) for n in range(1, 9)])
    _, reader = read(db)
    assert reader.mixed == {"who"}
    found = mixed_types(db, reader, 3)
    assert (found.code, found.column, found.rows) == ("bad_symbol", "who", ({"at": 5, "who": 7},))
    assert "expected one type, found text and integer" in found.message


def test_cells_are_shown_as_they_stand_in_the_dump(fill: Fill) -> None:
    db = fill([(n, "A", "", "dear" if n == 7 else 1, 1.0) for n in range(1, 9)])
    reader = Reader(SHAPE, 2)
    found = reader.fetch(db, [6, 0, 6])
    assert {place: (row["at"], row["price"]) for place, row in found.items()} == {0: (1, 1), 6: (7, "dear")}
    assert reader.fetch(db, []) == {}


def test_names_that_a_snapshot_needs_are_not_read() -> None:
    shape = TableShape(table="t", required=("timestamp", "symbol"), optional=("metadata",), finite=("ts_ns", "x"))
    assert Reader(shape, 1).columns == ("timestamp", "symbol", "x")


def test_a_tally_keeps_the_first_rows_of_the_table_and_counts_all() -> None:
    tally = Tally(3)
    tally.add(np.array([9, 4]), pl.Series(["B", "A"]))
    tally.add(np.array([7, 1]), pl.Series(["B", "C"]))
    assert (tally.count, tally.places.tolist(), tally.told()) == (4, [1, 4, 7], ("A", "B", "C"))
    tally.add(np.array([2]), pl.Series([None], dtype=pl.String))
    assert tally.told() is None and Tally(3).told() is None
