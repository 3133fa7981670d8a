"""What changed is seen to the last bit, what did not is taken for the same however it lies in memory."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.data.increments import unchanged
from plusultra_core.data.increments.unchanged import same_until

TEXTS = st.sampled_from([None, "", "A", "twelve bytes", "thirteen byte", "thirteen bytes", "thirteen bits!"])
ROWS = st.lists(st.tuples(st.booleans(), TEXTS, st.sampled_from([None, 1.0, 2.0])), max_size=12)


def test_a_history_that_differs_in_one_bit_is_marked() -> None:
    old = np.arange(12, dtype=np.int64)
    new = np.concatenate([old[:4], [100], old[4:8], [101], old[8:12]])
    new[7] += 1
    first, later, num_rows = np.array([0, 4, 8]), np.array([0, 5, 10]), np.array([4, 4, 4])
    for kernel in (unchanged.mark_changed_bits, getattr(unchanged.mark_changed_bits, "py_func", unchanged.mark_changed_bits)):
        same = np.array([True, True, False])
        kernel(old, first, new, later, num_rows, same)
        assert same.tolist() == [True, False, False]


def table(rows: list[tuple[bool, str | None, float | None]]) -> pl.DataFrame:
    """Rows that are known late or not; every one has its text in a place of its own."""
    known_ns = [1 + late for late, _, _ in rows]
    texts = pl.concat([pl.Series([text], dtype=pl.String) for _, text, _ in rows] or [pl.Series([], dtype=pl.String)])
    values = pl.Series([value for _, _, value in rows], dtype=pl.Float64)
    return pl.DataFrame({"known_ns": pl.Series(known_ns, dtype=pl.Int64), "symbol": texts, "value": values, "plain": texts.fill_null("-")})


@given(rows=ROWS, at=st.integers(0, 11), instead=TEXTS)
@settings(deadline=None)
def test_rows_that_were_known_are_the_same_whatever_came_between_and_not_when_one_text_changed(
    rows: list[tuple[bool, str | None, float | None]], at: int, instead: str | None
) -> None:
    revised = [(late, instead if i == at else text, value) for i, (late, text, value) in enumerate(rows)]
    old, new = table([row for row in rows if not row[0]]), table(revised)
    known = new["known_ns"] <= 1
    plain = getattr(unchanged.mark_changed_texts, "py_func", unchanged.mark_changed_texts)
    for kernel in (unchanged.mark_changed_texts, plain):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(unchanged, "mark_changed_texts", kernel)
            assert unchanged._same_in_order(old, new, known) == old.equals(new.filter(known))
    assert same_until(old, new, 1) == old.sort(old.columns).equals(new.filter(known).sort(old.columns))


@given(texts=st.lists(st.tuples(TEXTS, st.integers(1, 60)), max_size=8), begin=st.integers(0, 40), num=st.integers(0, 200))
@settings(deadline=None)
def test_runs_of_texts_are_those_of_the_engine_wherever_the_texts_lie(texts: list[tuple[str | None, int]], begin: int, num: int) -> None:
    pieces = [pl.Series([text], dtype=pl.String).new_from_index(0, num) for text, num in texts]
    column = pl.concat(pieces or [pl.Series([], dtype=pl.String)]).slice(begin, num)
    runs = column.rle().struct.unnest() if column.len() else pl.DataFrame({"len": [], "value": []})
    lengths = runs["len"].cast(pl.Int64)
    for kernel in (unchanged.moved, getattr(unchanged.moved, "py_func", unchanged.moved)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(unchanged, "moved", kernel)
            found = unchanged.text_runs(column)
        if found is not None:
            assert found[0].to_list() == runs["value"].to_list()
            assert found[1].tolist() == (lengths.cum_sum() - lengths).to_list()
        else:
            nulls = column.is_null().to_list()
            assert nulls != sorted(nulls, reverse=True) or column.len() - column.null_count() < 8 * len(texts)


def test_a_column_whose_texts_change_at_every_row_is_left_to_the_engine() -> None:
    assert unchanged.text_runs(pl.Series(["A", "B"] * 40)) is None
    found = unchanged.text_runs(pl.Series([None] * 9 + ["A"] * 40 + ["B"] * 40))
    assert found is not None and found[1].tolist() == [0, 9, 49]
