"""The lake's files: round trip, one place a partition, replaced whole."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from upath import UPath

from plusultra_core.artifacts import publish
from plusultra_core.errors import ArtifactError
from plusultra_dagster.partitions import multi_key, snapshot, snapshot_by_asset_class
from plusultra_dagster.resources.references import ReferenceIO
from plusultra_dagster.resources.tables import ParquetFiles, ParquetIO, parquet_bytes, version_of

FRAME = pl.DataFrame({"symbol": ["BTC/USDT:USDT", "^GSPC"], "ts_ns": [1, 2], "close": [1.5, None]})


def test_equal_frames_have_equal_bytes_and_one_value_changes_them() -> None:
    assert parquet_bytes(FRAME) == parquet_bytes(FRAME.clone())
    assert version_of(FRAME) != version_of(FRAME.with_columns(pl.col("close") * 2))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Frames of two classes of one snapshot, written through a run."""

    @dg.asset(partitions_def=snapshot_by_asset_class)
    def bars(context: dg.AssetExecutionContext) -> pl.DataFrame:
        return FRAME.with_columns(of=pl.lit(str(context.partition_key)))

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("snapshot", ["s-1"])
        for name in ("equity", "etf"):
            io = {"io_manager": ParquetIO(base=str(tmp_path))}
            assert dg.materialize([bars], instance=instance, partition_key=multi_key("s-1", name), resources=io).success
    return tmp_path


def test_a_partition_is_one_file_of_class_and_snapshot(stored: Path) -> None:
    assert sorted(path.relative_to(stored).as_posix() for path in stored.rglob("*.parquet")) == [
        "bars/equity/s-1.parquet",
        "bars/etf/s-1.parquet",
    ]
    assert pl.read_parquet(stored / "bars/etf/s-1.parquet").drop("of").equals(FRAME)


def test_a_key_given_as_text_names_the_same_file(tmp_path: Path) -> None:
    files = ParquetFiles(base_path=UPath(tmp_path))
    base = UPath(tmp_path) / "bars"
    assert files.get_path_for_partition(None, base, "equity|s-1") == files.get_path_for_partition(None, base, "equity/s-1")  # type: ignore[arg-type]


def test_an_input_of_several_classes_is_a_dict_of_those_that_are_there(stored: Path) -> None:
    seen: dict[str, pl.DataFrame] = {}
    external = dg.AssetSpec("bars", partitions_def=snapshot_by_asset_class)

    @dg.asset(partitions_def=snapshot, ins={"bars": dg.AssetIn()})
    def view(bars: dict[str, pl.DataFrame]) -> None:
        seen.update(bars)

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("snapshot", ["s-1"])
        io = {"io_manager": ParquetIO(base=str(stored))}
        assert dg.materialize([external, view], selection=[view], instance=instance, partition_key="s-1", resources=io).success
    assert sorted(seen) == ["equity|s-1", "etf|s-1"]


def test_a_frame_that_is_not_collected_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="collect it first"):
        ParquetFiles(base_path=UPath(tmp_path)).dump_to_path(None, FRAME.lazy(), UPath(tmp_path) / "x.parquet")  # type: ignore[arg-type]


def test_a_write_that_is_cut_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = UPath(tmp_path) / "bars" / "a.parquet"
    files = ParquetFiles(base_path=UPath(tmp_path))
    files.write(path, b"old")

    def cut_off(self: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(path), "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.parquet"]


def test_files_of_another_file_system_are_written_the_same_way() -> None:
    path = UPath("memory://lake/bars/equity/s-1.parquet")
    files = ParquetFiles(base_path=UPath("memory://lake"))
    files.write(path, parquet_bytes(FRAME))
    assert files.load_from_path(None, path).equals(FRAME)  # type: ignore[arg-type]
    assert [entry.name for entry in path.parent.iterdir()] == ["s-1.parquet"]


def test_an_artifact_is_found_again_by_its_reference_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    made = publish(tmp_path / "artifacts" / "windows", "k1", lambda folder: folder.joinpath("x").write_bytes(b"1") and None, {})
    io = ReferenceIO(base=str(tmp_path / "lake"), artifacts=str(tmp_path / "artifacts")).create_io_manager(dg.build_init_resource_context())
    path = UPath(tmp_path / "lake" / "windows" / "equity" / "s-1.json")
    io.dump_to_path(None, made, path)  # type: ignore[arg-type]
    assert io.load_from_path(None, path) == made  # type: ignore[arg-type]
    (made.path / "x").write_bytes(b"2")
    with pytest.raises(ArtifactError, match="x: expected"):
        io.load_from_path(None, path)  # type: ignore[arg-type]
