"""Tables of a class are the same out of a frame of all classes and read by themselves."""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from plusultra_core.data.increments import files
from plusultra_core.data.increments.classes import rows_of
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import TABLES, DataConfig, build_table, classes_in
from plusultra_core.market import MarketConfig

MakeDump = Callable[..., Path]
Markets = dict[str, MarketConfig]
WIDE = (
    "INSERT INTO options_implied_vol SELECT timestamp, symbol, 0.2 FROM series WHERE symbol IN ('BBB', 'X/USD:P')",
    "INSERT INTO options_implied_vol SELECT timestamp, '^NOBODY', 0.3 FROM series WHERE symbol = 'AAA'",
    "INSERT INTO macro_rates SELECT timestamp, 'UST', 4.0 FROM series WHERE symbol = 'AAA'",
    "INSERT INTO sentiment SELECT timestamp, symbol, 0.5, 'x' FROM series WHERE symbol <> 'BBB'",
    "INSERT INTO sentiment SELECT timestamp, NULL, 0.1, 'x' FROM series WHERE symbol = 'AAA'",
    "INSERT INTO indicators SELECT timestamp, symbol, 'rsi', 50, NULL FROM series WHERE symbol IN ('AAA', 'CCC')",
    "INSERT INTO benchmarks SELECT timestamp, '^BENCH', 0.01, 100 FROM series WHERE symbol = 'AAA'",
    "INSERT INTO corporate_actions VALUES ('2020-01-05 14:30:00', 'AAA', 'dividend', 1, NULL, 'USD')",
    "INSERT INTO trades VALUES (1, '2020-01-05 21:00:00', 'BBB', 'long', 1, 100, 0, 0, 0, '')",
    "UPDATE assets SET currency = 'EUR' WHERE symbol = 'BBB'",
)


def _both(snapshot: Path, markets: Markets, cfg: DataConfig, monkeypatch: pytest.MonkeyPatch) -> int:
    """Compare the tables of every class; how many rows there were."""
    rows = 0
    for asset_class in (*classes_in(snapshot, markets, cfg), "volatility_index"):
        for name in TABLES:
            parted = build_table(name, snapshot, asset_class, markets, cfg)
            with monkeypatch.context() as patch:
                patch.setattr(files, "_WHOLE_BYTES", 0)
                alone = build_table(name, snapshot, asset_class, markets, cfg)
            assert_frame_equal(parted, alone, check_exact=True)
            rows += alone.height
    return rows


def test_a_class_is_the_same_in_a_frame_of_all_and_alone(
    make_dump: MakeDump, tmp_path: Path, data_cfg: DataConfig, markets: Markets, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = take_snapshot(make_dump(*WIDE), tmp_path / "store", data_cfg, markets)
    assert _both(taken.path, markets, data_cfg, monkeypatch) > 700


def test_a_class_of_a_real_dump_is_the_same_in_a_frame_of_all_and_alone(
    real_dump: Callable[[str], Path], tmp_path: Path, data_cfg: DataConfig, markets: Markets, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = take_snapshot(real_dump("market_2017_a"), tmp_path, data_cfg, markets)
    assert _both(taken.path, markets, data_cfg, monkeypatch) > 100_000


@pytest.mark.parametrize("symbols", [None, [], ["A"], ["A", "B"], ["A", "C"], ["B", "D"], ["Z"]])
def test_rows_of_some_symbols_and_of_nobody_come_in_their_order(symbols: Sequence[str] | None, tmp_path: Path) -> None:
    frame = pl.DataFrame({"symbol": [None, None, *"AAABCCD"], "value": range(9)}, schema_overrides={"symbol": pl.String})
    made = []

    def make() -> pl.DataFrame:
        made.append(1)
        return frame

    for rows in (frame, frame.filter(pl.col("symbol").is_not_null())):
        made.clear()
        wanted = rows if symbols is None else rows.filter(pl.col("symbol").is_null() | pl.col("symbol").is_in(list(symbols)))
        path = tmp_path / f"{rows.height}.parquet"
        path.write_bytes(b"x")
        for _ in range(2):
            found = rows_of(("test", str(path)), [path, tmp_path / "none"], symbols, lambda rows=rows: (make(), rows)[1])
            assert found is not None and found.equals(wanted) and found.schema == wanted.schema
        assert len(made) == 1
        path.write_bytes(b"xy")  # another file: made anew
        assert rows_of(("test", str(path)), [path], symbols, make) is not None and len(made) == 2
