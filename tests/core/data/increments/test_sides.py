"""Rows that came since lie among those that were there as if all had been sorted at once."""

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.data.contract.frames import empty, sort
from plusultra_core.data.increments.sides import _merged, _runs

ROWS = st.lists(
    st.tuples(
        st.sampled_from(["t", "u"]),
        st.sampled_from([None, "A", "B", "C"]),
        st.sampled_from(["f", "g"]),
        st.integers(0, 9),
        st.integers(0, 3),
        st.sampled_from([None, 5]),
        st.sampled_from([0.5, 1.5]),
    ),
    max_size=25,
)


@given(old=ROWS, new=ROWS, wanted=st.sets(st.sampled_from([None, "A", "B", "C"])))
@settings(max_examples=200, deadline=None)
def test_a_merged_frame_is_the_sorted_one(old: list[tuple[object, ...]], new: list[tuple[object, ...]], wanted: set[str | None]) -> None:
    frame, fresh = (sort("side_tables", pl.DataFrame(rows, schema=empty("side_tables").schema, orient="row")) for rows in (old, new))
    runs = {symbol: span for symbol, span in _runs(fresh).items() if symbol in wanted}
    mine = fresh.filter(pl.Series([symbol in wanted for symbol in fresh["symbol"].to_list()], dtype=pl.Boolean))
    whole = sort("side_tables", pl.concat([frame, mine]))
    found = _merged(frame, fresh, runs)
    assert found.schema == whole.schema and found.equals(whole)
