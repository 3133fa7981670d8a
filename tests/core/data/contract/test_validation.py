"""A frame is what its name says, or the first thing that is not is named."""

import subprocess
import sys

import polars as pl
import pytest

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.data.contract import validation
from plusultra_core.data.contract.frames import FRAMES, empty, sort
from plusultra_core.data.contract.validation import validate
from plusultra_core.errors import ConfigError, ContractError


def _filled(name: str, rows: int = 4) -> pl.DataFrame:
    """Some frame that keeps the contract `name`: constant values, rising keys."""
    spec = FRAMES[name]
    columns: dict[str, pl.Series] = {}
    for column, col in spec.columns.items():
        value: object = {"String": "a", "Boolean": False}.get(str(col.dtype), 1)
        value = col.options[0] if col.options else value
        columns[column] = pl.Series(column, [value] * rows, dtype=col.dtype)
    for key in spec.order:
        if key in ("ts_ns", "trade_id") or (key == "symbol" and spec.order == ("symbol",)):
            columns[key] = pl.Series(key, [f"s{i}" if key == "symbol" else i * NS_PER_DAY for i in range(rows)])
    if "known_ns" in columns:
        columns["known_ns"] = columns["ts_ns"].alias("known_ns")
    frame = pl.DataFrame(columns)
    if name == "bars":
        frame = frame.with_columns(has_ohl=True, has_volume=True)
    return frame


@pytest.mark.parametrize("name", FRAMES)
def test_a_sound_frame_comes_back_itself(name: str) -> None:
    frame = _filled(name)
    assert validate(name, frame) is frame
    assert validate(name, empty(name)).height == 0


@pytest.mark.parametrize("name", FRAMES)
def test_a_missing_column_is_named(name: str) -> None:
    column = list(FRAMES[name].columns)[-1]
    with pytest.raises(ContractError, match=rf"{name}.{column}: the column is missing"):
        validate(name, _filled(name).drop(column))


@pytest.mark.parametrize("name", FRAMES)
def test_an_unknown_column_is_named(name: str) -> None:
    with pytest.raises(ContractError, match=rf"{name}.Odd!: unknown column"):
        validate(name, _filled(name).with_columns(pl.lit(1.0).alias("Odd!")))


@pytest.mark.parametrize("name", FRAMES)
def test_every_column_has_its_type(name: str) -> None:
    for column, col in FRAMES[name].columns.items():
        other = pl.Float32 if col.dtype in (pl.Float64, pl.Boolean, pl.String) else pl.Int16
        cast = pl.lit(1).cast(other).alias(column)
        with pytest.raises(ContractError, match=rf"{name}.{column}: .*expected dtype"):
            validate(name, _filled(name).with_columns(cast))


@pytest.mark.parametrize("name", FRAMES)
def test_nulls_stand_only_where_they_may(name: str) -> None:
    for column, col in FRAMES[name].columns.items():
        frame = _filled(name).with_columns(pl.lit(None, col.dtype).alias(column))
        if not col.nullable:
            with pytest.raises(ContractError, match=rf"{name}.{column}: "):
                validate(name, frame)


@pytest.mark.parametrize("name", FRAMES)
def test_rows_are_sorted_and_keys_unique(name: str) -> None:
    frame = _filled(name)
    for wrong in (frame.reverse(), pl.concat([frame, frame.tail(1)])):
        with pytest.raises(ContractError, match=rf"{name}.*expected rows sorted by {FRAMES[name].order[0]}.*each key once"):
            validate(name, wrong)


@pytest.mark.parametrize("at", range(1, 10))
def test_a_long_frame_is_judged_in_slices_as_in_one_piece(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sound, row = _filled("series", 10), pl.int_range(pl.len())
    doubled = pl.when(row == at).then(pl.col("ts_ns").shift()).otherwise("ts_ns")
    negative = pl.when(row >= at).then(-1.0).otherwise("volume")
    early = pl.when(row >= at).then(pl.col("ts_ns") - 1).otherwise("known_ns")
    broken = (
        sound.with_columns(ts_ns=doubled, known_ns=doubled),
        sound.with_columns(volume=negative),
        sound.with_columns(known_ns=early),
    )
    for frame in broken:
        told = set()
        for size in (1, 3, 1_000):
            monkeypatch.setattr(validation, "_SLICE_ROWS", size)
            assert validate("series", sound) is sound
            with pytest.raises(ContractError) as refused:
                validate("series", frame)
            told.add(str(refused.value))
        assert len(told) == 1


@pytest.mark.parametrize("name", [name for name, spec in FRAMES.items() if spec.known_after_ts])
def test_nothing_is_known_before_it_happened(name: str) -> None:
    with pytest.raises(ContractError, match=rf"{name}.known_ns: 4 rows, first .*nothing is known before it happened"):
        validate(name, _filled(name).with_columns(known_ns=pl.col("ts_ns") - 1))


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("series", "close", 0.0),
        ("series", "close", float("nan")),
        ("series", "high", float("inf")),
        ("series", "volume", -1.0),
        ("bars", "adj_factor", 0.0),
        ("bars", "gap_bars", -1),
        ("regimes", "volatility_state", 4),
        ("targets", "barrier_label", 2),
        ("forecasts", "p_up", 1.5),
        ("trades", "side", "buy"),
        ("assets", "asset_class", "tulip"),
        ("corporate_actions", "action", "merger"),
        ("view", "staleness_ns", -1),
    ],
)
def test_values_out_of_range(name: str, column: str, value: object) -> None:
    dtype = FRAMES[name].columns[column].dtype
    with pytest.raises(ContractError, match=rf"{name}.{column}: [48] failures, first \("):
        validate(name, _filled(name).with_columns(pl.lit(value, dtype).alias(column)))


def test_warm_up_may_be_missing_in_features_but_not_in_bars() -> None:
    frame = _filled("features").with_columns(momentum=pl.Series([None, float("nan"), 1.0, float("inf")], dtype=pl.Float32))
    assert validate("features", frame) is frame
    with pytest.raises(ContractError, match=r"features.momentum: .*Float32"):
        validate("features", frame.with_columns(momentum=pl.lit(1, pl.Int64)))


def test_families_of_columns_are_checked_by_their_pattern() -> None:
    frame = _filled("targets").with_columns(pl.lit(1, pl.Int8).alias("direction_5"), pl.lit(0.5).alias("ret_log_5"))
    assert validate("targets", frame) is frame
    with pytest.raises(ContractError, match=r"targets.direction_5: 4 failures"):
        validate("targets", frame.with_columns(pl.lit(3, pl.Int8).alias("direction_5")))
    with pytest.raises(ContractError, match=r"targets.direction: unknown column"):
        validate("targets", frame.with_columns(direction=pl.lit(1, pl.Int8)))


def test_flags_of_bars_tell_the_truth() -> None:
    bars = _filled("bars")
    for change, column in (
        ({"has_ohl": pl.lit(False)}, "has_ohl"),
        ({"open": pl.lit(None, pl.Float64)}, "has_ohl"),
        ({"volume": pl.lit(None, pl.Float64)}, "has_volume"),
        ({"high": pl.lit(0.5)}, "high"),
    ):
        with pytest.raises(ContractError, match=rf"bars.{column}: 4 rows, first"):
            validate("bars", bars.with_columns(**change))


def test_symbols_must_be_assets_and_rows_those_of_the_bars() -> None:
    bars, assets = _filled("bars"), _filled("assets").with_columns(symbol=pl.Series(["a", "b", "c", "d"]))
    assert validate("bars", bars, assets=assets) is bars
    with pytest.raises(ContractError, match=r"bars.symbol: 4 rows, first .*expected a symbol of assets"):
        validate("bars", bars, assets=assets.tail(3))
    features = _filled("features")
    assert validate("features", features, bars=bars) is features
    with pytest.raises(ContractError, match=r"features: expected the 4 rows \(symbol, ts_ns\) of bars, found 3"):
        validate("features", features.head(3), bars=bars)


def test_market_wide_rows_come_first() -> None:
    frame = _filled("side_tables").with_columns(symbol=pl.Series(["b", None, "a", None]))
    assert sort("side_tables", frame)["symbol"].to_list() == [None, None, "a", "b"]
    assert validate("side_tables", sort("side_tables", frame)).height == 4
    with pytest.raises(ContractError, match="sorted"):
        validate("side_tables", frame)


def test_lazy_frames_and_unknown_names_are_refused() -> None:
    with pytest.raises(ContractError, match="expected a collected frame"):
        validate("bars", _filled("bars").lazy())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="frame: expected one of"):
        validate("gossip", empty("bars"))


def test_the_caller_pays_for_pandera_only_when_it_validates() -> None:
    code = (
        "import sys, plusultra_core.data.bars, plusultra_core.data.snapshot, plusultra_core.data.contract; print('pandera' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_rows_of_side_tables_with_equal_keys_lie_in_one_order_whatever_they_came_in() -> None:
    keys = {"table": "t", "symbol": None, "field": "f", "ts_ns": 1, "known_ns": 2}
    rows = [{**keys, "expires_ns": expires_ns, "value": value} for expires_ns in (None, 3, 4) for value in (0.5, 1.5, 2.5)]
    frame = pl.DataFrame(rows * 40, schema=empty("side_tables").schema)
    found = [sort("side_tables", frame.sample(fraction=1.0, shuffle=True, seed=seed)) for seed in range(5)]
    assert all(one.equals(found[0]) for one in found) and found[0]["value"][:40].to_list() == [0.5] * 40
