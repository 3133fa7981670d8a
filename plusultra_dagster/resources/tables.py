"""Tables in the lake: one Parquet file a partition, the same bytes for the same rows, published whole."""

import hashlib
import io
import uuid
import weakref
from typing import Any

import dagster as dg
import polars as pl
from dagster._core.storage.upath_io_manager import is_dict_type
from upath import UPath

from plusultra_dagster.partitions import Partition

_encoded: dict[int, bytes] = {}
"""Bytes of frames that are alive, by identity: a table is encoded once for its version and its file."""


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """Parquet with every option written out and nothing of the moment in it: equal frames, equal bytes."""
    key = id(frame)
    if key not in _encoded:
        _encoded.clear()
        _encoded[key] = _encode(frame)
        weakref.finalize(frame, _encoded.pop, key, None)
    return _encoded[key]


def _encode(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(
        buffer, compression="zstd", compression_level=3, statistics=True, row_group_size=131_072, use_pyarrow=False
    )
    return buffer.getvalue()


def version_of(frame: pl.DataFrame) -> str:
    """16 hex digits that name the rows of a frame."""
    return hashlib.sha256(parquet_bytes(frame)).hexdigest()[:16]


def stored(lake: str, asset: str, partition: Partition, version: str) -> pl.DataFrame | None:
    """A table as it was stored under that version; None where it is gone or another by now."""
    path = UPath(lake) / asset / str(partition.asset_class) / f"{partition.snapshot}.parquet"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return pl.read_parquet(io.BytesIO(content)) if hashlib.sha256(content).hexdigest()[:16] == version else None


class PartitionFiles(dg.UPathIOManager):
    """`<base>/<asset>/<asset_class>/<snapshot><extension>`, replaced by one rename.

    Dagster hands a partition key over as MultiPartitionKey or, when a run was launched by GraphQL, as plain
    text with `|`: both must name one file. An input annotated as dict gets a dict even when one class is there.
    """

    def get_path_for_partition(self, context: dg.InputContext | dg.OutputContext, path: UPath, partition: str) -> UPath:
        """`equity|key` and `equity/key` are one place."""
        return super().get_path_for_partition(context, path, partition.replace("|", "/"))

    def load_input(self, context: dg.InputContext) -> Any:
        """One object, or for an input annotated as dict those of every partition that is stored, by key."""
        if context.has_asset_partitions and is_dict_type(context.dagster_type.typing_type):
            paths = self._get_paths_for_partitions(context)
            return {str(key): self.load_from_path(context, path) for key, path in paths.items() if self.path_exists(path)}
        return super().load_input(context)

    def write(self, path: UPath, content: bytes) -> None:
        """Write beside, then rename: a reader sees the old bytes or the new ones."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.parent / f".tmp-{uuid.uuid4().hex}"
        try:
            beside.write_bytes(content)
            path.fs.mv(beside.path, path.path) if path.protocol not in ("", "file") else beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


class ParquetFiles(PartitionFiles):
    """Polars frames."""

    extension = ".parquet"

    def dump_to_path(self, context: dg.OutputContext, obj: pl.DataFrame, path: UPath) -> None:
        """Store a frame."""
        if not isinstance(obj, pl.DataFrame):
            raise TypeError(f"{path}: expected a polars DataFrame, found {type(obj).__name__}; collect it first")
        self.write(path, parquet_bytes(obj))

    def load_from_path(self, context: dg.InputContext, path: UPath) -> pl.DataFrame:
        """A stored frame."""
        return pl.read_parquet(io.BytesIO(path.read_bytes()))


class ParquetIO(dg.ConfigurableIOManagerFactory[ParquetFiles]):
    """The lake's IO manager; `base` is a folder or a URL that fsspec knows (`s3://bucket/lake`)."""

    base: str

    def create_io_manager(self, context: dg.InitResourceContext) -> ParquetFiles:
        """One per run."""
        return ParquetFiles(base_path=UPath(self.base))
