"""A file of a snapshot is read once, and never believed when it is no longer what the manifest names."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from plusultra_core.data.increments import files
from plusultra_core.data.increments.files import content_of, is_short, kept, manifest_of, read_whole, stamp_of, unchanged
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import DataConfig
from plusultra_core.errors import ArtifactError
from plusultra_core.market import MarketConfig


@pytest.fixture
def series(make_dump: Callable[..., Path], tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> Path:
    """The bars of a snapshot."""
    return take_snapshot(make_dump(), tmp_path / "store", data_cfg, markets).path / "tables" / "series.parquet"


def rewrite(path: Path, content: bytes) -> None:
    """Put other bytes under the name of a file."""
    path.unlink()
    path.write_bytes(content)


def test_a_table_is_decoded_once_and_again_when_its_file_is_another(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = pl.read_parquet
    monkeypatch.setattr(files.pl, "read_parquet", lambda source: reads.append(source) or read(source))
    content = series.read_bytes()
    first = read_whole(series)
    assert read_whole(series) is first and len(reads) == 1 and is_short(series)
    rewrite(series, content)
    assert read_whole(series).equals(first) and len(reads) == 2


@pytest.mark.parametrize("read", [read_whole, content_of, unchanged])
def test_bytes_that_the_manifest_does_not_name_are_refused_even_when_they_come_during_the_reading(
    series: Path, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = series.read_bytes()
    read(series)
    rewrite(series, content[:-1] + b"!")
    with pytest.raises(ArtifactError, match=r"tables/series.parquet: expected the bytes of its manifest.json"):
        read(series)
    series.unlink()
    with pytest.raises(ArtifactError, match="found None"):
        read(series)
    series.write_bytes(content)
    assert stamp_of(series) is not None
    late = stamp_of(series)
    monkeypatch.setattr(files, "stamp_of", lambda path: late if path == series else stamp_of(path))
    rewrite(series, content[:-1] + b"!")  # after its stamp was taken
    with pytest.raises(ArtifactError, match="expected the bytes"):
        read(series)


def test_a_manifest_is_read_again_when_it_changes(series: Path) -> None:
    folder = series.parent.parent
    before = manifest_of(folder)
    assert manifest_of(folder) is before
    rewrite(folder / "manifest.json", b'{"files": {}}')
    assert manifest_of(folder) == {"files": {}}
    with pytest.raises(ArtifactError, match="sha256 None"):
        content_of(series)


def test_what_is_kept_stays_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_kept", type(files._kept)())
    monkeypatch.setattr(files, "KEPT_BYTES", 8_000)
    made: list[int] = []

    def make(number: int, rows: int) -> pl.DataFrame:
        return kept(number, lambda: made.append(number) or pl.DataFrame({"x": pl.Series([number] * rows, dtype=pl.Int64)}))

    for number in range(40):
        assert make(number, 100)["x"][0] == number
    assert sum(size for _, size in files._kept.values()) <= 8_000 and list(files._kept) == list(range(30, 40))
    assert make(39, 100)["x"][0] == 39 and len(made) == 40
    assert make(0, 100)["x"][0] == 0 and len(made) == 41 and 30 not in files._kept
    assert make(99, 1_000).height == make(99, 1_000).height and made[-2:] == [99, 99]  # too large to be kept
    assert kept("none", lambda: None) is None and files._kept["none"] == (None, 0)
