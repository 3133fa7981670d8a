"""What features read and leave, without holding it twice."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from plusultra_core.features import arrays
from plusultra_core.features.arrays import Columns, columns_of, numbers, runs

Of = Callable[..., pl.DataFrame]


@pytest.mark.parametrize(
    "values", [["a"] * 9, [*"aaabbbccc"], [*"aabbbccdd"], [None, None, "a", None, "a", "a", "a", "a"], ["a"], [*"abcdefg"]]
)
def test_runs_of_pieces_are_those_of_the_whole(values: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    column = pl.Series(values, dtype=pl.String)
    expected = runs(column)
    monkeypatch.setattr(arrays, "_PIECE_ROWS", 3)
    names, starts = runs(column)
    assert names.to_list() == expected[0].to_list() and starts.tolist() == expected[1].tolist()
    assert [column[start] for start in starts[:-1].tolist()] == names.to_list() and starts[-1] == len(values)


def test_rows_of_a_column_in_chunks_are_those_of_the_whole() -> None:
    parts = [
        pl.DataFrame({"x": pl.Series(x, dtype=pl.Float64), "n": pl.Series(n, dtype=pl.Int32)}) for x, n in (([1, None], [1, 2]), ([3], [3]))
    ]
    columns = Columns(pl.concat(parts, rechunk=False), ("x", "n"))
    assert [*columns] == ["x", "n"] and columns["n"].dtype == np.int32
    for name in columns:
        for rows in (slice(0, 3), slice(1, 3), slice(2, 3), slice(1, 1)):
            some = columns.some(name, rows)
            np.testing.assert_array_equal(some, numbers(columns._columns[name])[rows])
            assert some.dtype == np.float64 and some.flags.writeable


def test_bars_in_chunks_have_the_features_of_the_same_bars_in_one(panel: pl.DataFrame, of: Of) -> None:
    pieces = pl.concat([panel.slice(start, 37) for start in range(0, panel.height, 37)], rechunk=False)
    told = {"table": pl.lit("funding_rates"), "field": pl.lit("rate"), "value": pl.col("close") / 1e4}
    side = pieces.select("symbol", "ts_ns", "known_ns", **told)
    whole = of(panel.rechunk(), None, side.rechunk())
    assert pieces.n_chunks() > 10 and whole["funding_z"].count() > 100
    assert_frame_equal(of(pieces, None, side), whole, check_exact=True)


def _memory(frame: pl.DataFrame, name: str, part: int) -> int:
    """Where the validity (0) or the values (1) of a column lie."""
    return int(frame.get_column(name).to_arrow().buffers()[part].address)


def test_features_of_tables_that_are_not_there_are_one_column(built: pl.DataFrame) -> None:
    names = ("funding_carry", "implied_z", "market_vol_spread", "macro_age")
    assert len({_memory(built, name, 1) for name in names}) == 1 and all(built[name].null_count() == built.height for name in names)
    assert _memory(built, "ret_1", 1) != _memory(built, "ret_short", 1)


def test_columns_that_are_missing_at_the_same_rows_share_what_says_so() -> None:
    one, two, three = (np.array(values, dtype=np.float32) for values in ([np.nan, 1, 2], [np.nan, 3, 4], [5, np.nan, 6]))
    frame = columns_of({"one": one, "two": two, "three": three})
    assert frame["one"].to_list() == [None, 1.0, 2.0] and frame["three"].to_list() == [5.0, None, 6.0]
    assert _memory(frame, "one", 0) == _memory(frame, "two", 0) != _memory(frame, "three", 0)
