"""The sheet: one row a strategy, and no tape that lacks what it needs."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.evaluation.execution.sheet import TABLES, Tape, build_execution, load_tape


def test_every_strategy_has_a_row_also_one_that_never_traded(tape: Tape) -> None:
    sheet = build_execution(tape, 5)
    rows = {row["strategy"]: row for row in sheet.strategies.iter_rows(named=True)}
    assert list(rows) == ["no_trade", "policy", "sized_hybrid"]
    idle, policy = rows["no_trade"], rows["policy"]
    assert (idle["num_orders"], idle["num_fills"], idle["shortfall"], idle["bps"], idle["fill_ratio"]) == (0, 0, 0.0, None, None)
    own = tape.trace.orders.filter(pl.col("strategy") == "policy")
    assert policy["num_orders"] + policy["num_refused"] == own.height
    assert policy["num_fills"] == tape.executions.filter((pl.col("strategy") == "policy") & (pl.col("qty_filled") > 0)).height
    assert 0.0 < policy["fill_ratio"] < 1.0 and policy["latency_ms_median"] == 250.0
    assert policy["shortfall"] == pytest.approx(
        sheet.shortfall.filter((pl.col("strategy") == "policy") & pl.col("symbol").is_null())["shortfall"][0]
    )


def test_equal_traces_give_equal_sheets(worlds: Any) -> None:
    one, two = (build_execution(load_tape(worlds.random(9)), 5) for _ in range(2))
    assert all(getattr(one, name).equals(getattr(two, name)) for name in TABLES)


def test_a_trace_without_the_life_of_its_orders_is_refused(worlds: Any, tmp_path: Path) -> None:
    whole = worlds.random(3)
    for missing in ("executions", "market.parquet"):
        part = tmp_path / missing
        shutil.copytree(whole, part / "trace")
        found = part / "trace" / missing
        shutil.rmtree(found) if found.is_dir() else found.unlink()
        with pytest.raises(ArtifactError, match=rf"{missing}.*run the trace task again"):
            load_tape(part / "trace")


def test_a_trace_of_an_older_kind_is_refused(worlds: Any, tmp_path: Path) -> None:
    shutil.copytree(worlds.random(3), tmp_path / "trace")
    path = tmp_path / "trace" / "orders.parquet"
    pl.read_parquet(path).drop("waiting").write_parquet(path)
    with pytest.raises(ContractError, match="orders: missing column 'waiting'; run the trace task again"):
        load_tape(tmp_path / "trace")


@pytest.mark.parametrize("name", ["qty_filled", "delay", "waiting", "spread", "impact", "fees"])
def test_bars_that_do_not_add_up_to_their_orders_are_refused(tape: Tape, name: str) -> None:
    first = pl.int_range(pl.len()) == tape.executions["qty_filled"].arg_max()
    touched = tape.executions.with_columns(pl.when(first).then(pl.col(name) + 1.0).otherwise(pl.col(name)).alias(name))
    with pytest.raises(ContractError, match=rf"executions.{name} \w+: its bars leave 1 of the order unexplained"):
        build_execution(dataclasses.replace(tape, executions=touched), 5)


def test_bars_of_no_order_and_orders_without_bars_are_refused(tape: Tape) -> None:
    filled = tape.executions.filter(pl.col("qty_filled") > 0)
    for touched in (tape.executions.filter(pl.col("order_id") != filled["order_id"][0]), pl.concat([tape.executions, filled.head(1)])):
        with pytest.raises(ContractError, match=r"executions\.\w+ \w+: its bars leave"):
            build_execution(dataclasses.replace(tape, executions=touched), 5)
