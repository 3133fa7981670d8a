"""The long view as arrays, and as the table of a dump."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plusultra_core import config
from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.samples.dump_writer import write_dump
from plusultra_core.data.tables import DataConfig
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.market import ASSET_CLASSES, MarketConfig
from plusultra_core.views.build import ViewsConfig, build
from plusultra_core.views.export import cross_asset_views, write
from plusultra_core.views.panel import wide

Make = Callable[..., pl.DataFrame]
Frames = dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def bars(make_class: Make) -> Frames:
    return {
        "equity": make_class(0, ("A", "B", "C"), num_times=60, gap_share=0.2, late_ns=NS_PER_HOUR),
        "etf": make_class(1, ("SPY",), num_times=60, gap_share=0.2, first=20),
    }


@pytest.fixture(scope="module")
def view(
    bars: Frames, features_of: Callable[[pl.DataFrame], pl.DataFrame], market: Callable[[str], MarketConfig], smoke: ViewsConfig
) -> pl.DataFrame:
    return build("equity", bars, {name: features_of(frame) for name, frame in bars.items()}, {}, market("equity"), smoke).frame


def test_the_frame_stands_in_the_order_of_the_contract(view: pl.DataFrame) -> None:
    assert view.equals(view.sort("feature", "symbol", "ts_ns", nulls_last=False))
    assert view.select("feature", "symbol", "ts_ns").n_unique() == view.height


def test_every_cell_of_the_panel_is_a_row_of_the_view(view: pl.DataFrame, bars: Frames) -> None:
    ts_ns_T = bars["equity"]["ts_ns"].unique().sort().to_numpy()
    panel = wide(view, ("A", "B", "C"), ts_ns_T)
    assert {*panel.whole, *panel.own} == set(view["feature"])
    cells = 0
    for row in view.iter_rows(named=True):
        t = int(np.searchsorted(ts_ns_T, row["ts_ns"]))
        if row["symbol"] is None:
            c = panel.whole.index(row["feature"])
            value, age, known = panel.value_TC[t, c], panel.staleness_ns_TC[t, c], panel.known_ns_T[t]
        else:
            n, j = panel.symbols.index(row["symbol"]), panel.own.index(row["feature"])
            value, age, known = panel.value_NTJ[n, t, j], panel.staleness_ns_NTJ[n, t, j], panel.known_ns_NT[n, t]
        assert np.isnan(value) if row["value"] is None else value == row["value"]
        assert age == (-1 if row["staleness_ns"] is None else row["staleness_ns"]) and known == row["known_ns"]
        cells += row["value"] is not None
    assert panel.mask_TC.sum() + panel.mask_NTJ.sum() == cells > 500
    before = panel.ts_ns_T < bars["etf"]["ts_ns"].min()
    assert before.any() and not panel.mask_TC[before, panel.whole.index("sym_SPY_z")].any()


def test_a_shuffled_view_gives_the_same_panel(view: pl.DataFrame, bars: Frames) -> None:
    ts_ns_T = bars["equity"]["ts_ns"].unique().sort().to_numpy()
    one, two = (wide(frame, ("A", "B", "C"), ts_ns_T) for frame in (view, view.sample(fraction=1.0, shuffle=True, seed=1)))
    np.testing.assert_array_equal(one.value_TC, two.value_TC)
    np.testing.assert_array_equal(one.value_NTJ, two.value_NTJ)


def test_rows_that_meet_no_bar_are_refused(view: pl.DataFrame, bars: Frames) -> None:
    ts_ns_T = bars["equity"]["ts_ns"].unique().sort().to_numpy()
    with pytest.raises(ContractError, match="rows at times without a bar"):
        wide(view, ("A", "B", "C"), ts_ns_T[1:])
    with pytest.raises(ContractError, match="a symbol has no bars in this class, first C"):
        wide(view, ("A", "B"), ts_ns_T)
    both = view.with_columns(pl.when(pl.col("ts_ns") < ts_ns_T[30]).then("symbol").alias("symbol"))
    with pytest.raises(ContractError, match="has rows with a symbol and rows without"):
        wide(both, ("A", "B", "C"), ts_ns_T)


def test_the_table_of_a_dump_holds_every_value_once_and_says_when_it_was_known(view: pl.DataFrame) -> None:
    table = cross_asset_views(view, "equity")
    assert table.columns == ["ts_ns", "feature", "value", "universe", "metadata"]
    assert table.height == view["value"].is_not_null().sum() == table.select("ts_ns", "feature").n_unique()
    row = table.filter(pl.col("feature") == "rel_corr:B").row(-1, named=True)
    facts = json.loads(row["metadata"])
    assert facts["symbol"] == "B" and facts["source_class"] == "equity" and facts["staleness_s"] == 3600.0
    known_ns = pl.Series([facts["known_at"]]).str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="ns").cast(pl.Int64)[0]
    assert known_ns == row["ts_ns"] + NS_PER_HOUR
    assert {"symbol"} == set(facts) - set(json.loads(table.filter(pl.col("feature") == "ctx_etf_ret")["metadata"][0]))


def test_a_strange_symbol_stays_json(view: pl.DataFrame) -> None:
    renamed = view.with_columns(pl.col("symbol").replace("B", 'B"\\x'))
    table = cross_asset_views(renamed, "equity").filter(pl.col("feature").str.starts_with("rel_corr:B"))
    assert {json.loads(text)["symbol"] for text in table["metadata"]} == {'B"\\x'}


def test_the_gate_accepts_a_dump_with_the_view_in_it(view: pl.DataFrame, bars: Frames, root: Path, tmp_path: Path) -> None:
    table = cross_asset_views(view, "equity")
    series = bars["equity"].select("symbol", "ts_ns", pl.col("close_adj").alias("close"))
    assets = pl.DataFrame({"asset_id": [1, 2, 3], "symbol": ["A", "B", "C"], "metadata": ['{"asset_class": "equity", "bar": "1d"}'] * 3})
    write_dump(tmp_path / "dump.sqlite", {"assets": assets, "series": series, "cross_asset_views": table})
    markets = {name: config.load(MarketConfig, root / "configs" / "markets" / f"{name}.yaml") for name in ASSET_CLASSES}
    report = check_dump(tmp_path / "dump.sqlite", config.load(DataConfig, root / "configs" / "smoke" / "data.yaml"), markets)
    assert report.accepted, report.findings
    assert not [finding for finding in report.findings if finding.table == "cross_asset_views"]


def test_a_view_is_written_as_parquet_and_as_sqlite(view: pl.DataFrame, tmp_path: Path) -> None:
    num_rows = write(tmp_path / "view.parquet", view, "equity")
    assert write(tmp_path / "view.sqlite", view, "equity") == num_rows
    stored = pl.read_parquet(tmp_path / "view.parquet")
    with closing(sqlite3.connect(tmp_path / "view.sqlite")) as db:
        rows = db.execute("SELECT feature, value, universe, metadata FROM cross_asset_views ORDER BY timestamp, feature").fetchall()
    assert rows == stored.select("feature", "value", "universe", "metadata").rows() and len(rows) == num_rows
    again = tmp_path / "again.parquet"
    write(again, view, "equity")
    assert again.read_bytes() == (tmp_path / "view.parquet").read_bytes()
    with pytest.raises(ConfigError, match="ends in"):
        write(tmp_path / "view.csv", view, "equity")
