"""Rows in any order come back sorted, a few whole owners at a time, and lie in files that are the same for the same rows."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plusultra_core.data.gate import ingest
from plusultra_core.data.gate.ingest import OWNER, PLACE, Names, Sorter, TableFile, find_twice, leave_out
from plusultra_core.data.gate.rows import Tally

ROWS = st.lists(
    st.tuples(st.sampled_from(["B", "A", "D", "Z", "C", None]), st.integers(0, 5) | st.none(), st.sampled_from("xy")), max_size=60
)


def frame_of(cells: list[tuple[str | None, int | None, str]], names: Names, start: int = 0) -> pl.DataFrame:
    frame = pl.DataFrame(cells, schema={"who": pl.String, "ts_ns": pl.Int64, "name": pl.String}, orient="row")
    places = pl.int_range(start, start + frame.height, dtype=pl.UInt32, eager=True).alias(PLACE)
    return frame.select("ts_ns", "name", places, names.encode(frame["who"]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=ROWS, run_rows=st.integers(1, 70), group_rows=st.integers(1, 70), run_bytes=st.sampled_from([100, 1_000, 10**9]))
def test_rows_come_back_sorted_in_groups_of_whole_owners(
    cells: list[tuple[str | None, int | None, str]],
    run_rows: int,
    group_rows: int,
    run_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ingest, "RUN_BYTES", run_bytes)
    monkeypatch.setattr(ingest, "RUN_ROWS", run_rows)
    monkeypatch.setattr(ingest, "GROUP_ROWS", group_rows)
    names = Names(["B", "A", "C"])
    sorter = Sorter(tmp_path, names, ("name",))
    for start in range(0, len(cells), 7):
        sorter.add(frame_of(cells[start : start + 7], names, start))
    groups = [group.with_columns(who=names.decode(group[OWNER]).cast(pl.String)) for group in sorter.groups()]
    sorter.forget()
    assert list(tmp_path.glob("*.arrow")) == [] and sorter.num_rows == len(cells)
    owners = [set(group["who"]) for group in groups]
    assert sum(map(len, owners)) == len({who for who, _, _ in cells})  # no owner in two groups
    expected = sorted(enumerate(cells), key=lambda row: (row[1][0] or "", -1 if row[1][1] is None else row[1][1], row[1][2], row[0]))
    found = [row for group in groups for row in group.select(PLACE, "who", "ts_ns", "name").rows()]
    assert found == [(place, *cell) for place, cell in expected]


def test_rows_in_the_order_of_time_need_only_their_owner_sorted(tmp_path: Path) -> None:
    names = Names(["B", "A"])
    sorter = Sorter(tmp_path, names, ())
    sorter.add(frame_of([("B", 1, ""), ("A", 1, ""), ("B", 2, ""), ("A", 2, "")], names))
    (group,) = sorter.groups()
    assert group[PLACE].to_list() == [1, 3, 0, 2]


def test_names_met_later_are_numbered_after_those_that_are_known() -> None:
    names = Names(["B", "A"])
    assert names.encode(pl.Series(["A", None, "Q", "B", "C", "Q"])).to_list() == [0, -1, 2, 1, 3, 2]
    assert names.decode(pl.Series([2, -1, 0])).to_list() == ["Q", None, "A"]
    assert [names.names[number] for number in names.order()[1:]] == ["A", "B", "C", "Q"]


def test_rows_with_one_key_are_counted_all_of_them_and_rows_without_a_time_are_not() -> None:
    names = Names(["A", "B"])
    frame = frame_of([(None, 1, "x"), (None, 1, "x"), ("A", None, "x"), ("A", None, "x"), ("A", 1, "x"), ("A", 1, "y")], names)
    frame = pl.concat([frame, frame_of([("B", 1, "x")] * 3, names, 6)])
    tally = Tally(9)
    find_twice(frame, [OWNER, "ts_ns"], names, tally)
    assert tally.places.tolist() == [0, 1, 4, 5, 6, 7, 8] and tally.told() is None
    tally = Tally(2)
    find_twice(frame, [OWNER, "ts_ns", "name"], None, tally)
    assert (tally.count, tally.places.tolist()) == (5, [0, 1])


def test_equal_rows_make_equal_files_and_text_is_text_again(tmp_path: Path) -> None:
    frame = pl.DataFrame({"symbol": pl.Series(["A", "B"], dtype=pl.Enum(["A", "B"])), "value": [1.0, None]})
    for name in ("one", "two"):
        with TableFile(tmp_path / name) as file:
            file.write(frame)
            file.write(frame.reverse())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert pl.read_parquet(tmp_path / "one").equals(pl.concat([frame, frame.reverse()]).cast({"symbol": pl.String}))


def test_symbols_are_left_out_of_a_file_and_rows_without_one_stay(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with TableFile(path) as file:
        file.write(pl.DataFrame({"who": ["A", "B", None], "value": [1.0, 2.0, 3.0]}))
        file.write(pl.DataFrame({"who": ["A", "C"], "value": [4.0, 5.0]}))
    leave_out(path, "who", ["A", "nobody"])
    assert pl.read_parquet(path).rows() == [("B", 2.0), (None, 3.0), ("C", 5.0)]
    assert list(tmp_path.iterdir()) == [path]
