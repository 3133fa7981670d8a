"""Files of a snapshot, each held to its manifest, and what was made of the small ones.

A file is known by its stamp: its inode, size and times. Whoever uses a file asks for its stamp anew, each time; what was read or
made of the file before serves again only while its stamp is what it was before the reading. What is decoded are the very
bytes that were held to the manifest, so a file that is written again in between is either read as it is now or refused.
"""

import io
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import polars as pl

from plusultra_core.artifacts import MANIFEST, sha256_bytes, sha256_file
from plusultra_core.data.gate.ingest import VERSIONS
from plusultra_core.errors import ArtifactError

Made = TypeVar("Made", pl.DataFrame, pl.DataFrame | None)
Stamp = tuple[int, int, int, int]
"""Of a file: another one means that it was written again."""
KEPT_BYTES = 128_000_000
"""Most that frames made of files may take together; the ones used least go first, and one above a quarter of it is not kept."""
_KEPT_FRAMES = 256
_WHOLE_BYTES = 16_000_000  # most of a file that is read whole; what it takes in memory is a few times that
_kept: OrderedDict[Hashable, tuple[pl.DataFrame | None, int]] = OrderedDict()
_lock = Lock()


def stamp_of(path: Path) -> Stamp | None:
    """What the file is known by now; None where there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def manifest_of(snapshot_dir: Path) -> dict[str, Any]:
    """The manifest of a snapshot, read once as long as it stays the same.

    Raises  OSError or ValueError where there is none that can be read.
    """
    path = snapshot_dir / MANIFEST
    return _manifest(path, stamp_of(path))


@lru_cache(maxsize=16)
def _manifest(path: Path, stamp: Stamp | None) -> dict[str, Any]:
    content = path.read_bytes()
    if stamp_of(path) != stamp:
        raise OSError(f"{path}: written while it was read")
    manifest: dict[str, Any] = json.loads(content)
    return manifest


def hold(path: Path, sha256: str | None) -> None:
    """Hold what was found in a file of a snapshot, None for no file, to what its manifest lists.

    Raises  ArtifactError where that is something else.
    """
    snapshot_dir = path.parent if path.name == VERSIONS else path.parent.parent
    name = path.name if path.name == VERSIONS else f"{path.parent.name}/{path.name}"
    listed = manifest_of(snapshot_dir)["files"].get(name, {}).get("sha256")
    if sha256 != listed:
        changed = f"expected the bytes of its {MANIFEST}, sha256 {listed}, found {sha256}"
        raise ArtifactError(f"{snapshot_dir.name}/{name}: {changed}; remove the folder {snapshot_dir} and take the snapshot again")


def unchanged(path: Path) -> Path:
    """The path of a table whose bytes are those of the manifest, or of one that neither has; for files too long to be read at once.

    Raises  ArtifactError where they are others.
    """
    stamp = stamp_of(path)
    hold(path, None if stamp is None else _sha256(path, stamp))
    return path


@lru_cache(maxsize=256)
def _sha256(path: Path, stamp: Stamp) -> str:
    return sha256_file(path)


def content_of(path: Path) -> bytes:
    """The bytes of a file, which are those of the manifest.

    Raises  ArtifactError where they are others, or the manifest lists no such file.
    """
    if stamp_of(path) is None:
        hold(path, None)
    content = path.read_bytes()
    hold(path, sha256_bytes(content))
    return content


def is_short(path: Path) -> bool:
    """Whether the file is there and so short that it is read whole where only a part of it is wanted."""
    stamp = stamp_of(path)
    return stamp is not None and stamp[1] <= _WHOLE_BYTES


def read_whole(path: Path) -> pl.DataFrame:
    """A table of a snapshot, decoded once as long as its file stays the same.

    Raises  as `content_of`.
    """
    return kept(("whole", path, stamp_of(path)), lambda: pl.read_parquet(io.BytesIO(content_of(path))))


def kept(key: Hashable, make: Callable[[], Made]) -> Made:
    """What was made under that key before, or is made now; the stamps of the files that it is made of are part of the key."""
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key][0]  # type: ignore[return-value]
    made = make()
    size = 0 if made is None else int(made.estimated_size())
    if size <= KEPT_BYTES // 4:
        with _lock:
            _kept[key] = (made, size)
            while len(_kept) > _KEPT_FRAMES or sum(size for _, size in _kept.values()) > KEPT_BYTES:
                _kept.popitem(last=False)
    return made
