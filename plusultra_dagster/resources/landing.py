"""The landing folder: which files are dumps that lie still, and under which key.

A tick looks at names, sizes and headers. It hashes a file once, when its signature (size and mtime) is new,
because the partition key contains the content's hash; how many bytes a tick may hash is bounded.
"""

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from plusultra_core.artifacts import sha256_file

SUFFIXES = (".sqlite", ".sqlite3", ".db")
_MAGIC = b"SQLite format 3\0"
_SIDECARS = ("-wal", "-journal")
_HASH_DIGITS = 12


class Landed(NamedTuple):
    """A dump that lies still and whose content no registered snapshot has."""

    name: str
    key: str
    signature: str


class Scan(NamedTuple):
    """What one look at the folder found."""

    new: tuple[Landed, ...]
    seen: dict[str, str]
    waiting: dict[str, str]


def key_of(path: Path) -> str:
    """Snapshot key of a dump that lies still: its stem, made plain, and the first 12 hex digits of its sha256."""
    from plusultra_core.data.snapshot import snapshot_key

    return snapshot_key(path.stem, sha256_file(path))


def same_content(key: str, registered: Iterable[str]) -> str | None:
    """The registered key whose content hash is that of `key`, whatever the file was called."""
    return next((other for other in sorted(registered) if other[-_HASH_DIGITS:] == key[-_HASH_DIGITS:]), None)


class Landing(dg.ConfigurableResource):
    """The folder, and how a tick treats it."""

    folder: str
    settle_s: float = 10.0
    max_new_per_tick: int = 4
    max_bytes_per_tick: int = 4 << 30

    def scan(self, seen: Mapping[str, str], registered: Iterable[str], now_s: float | None = None) -> Scan:
        """Compare the folder with the signatures of the last look."""
        now = time.time() if now_s is None else now_s
        known, new, waiting = {*registered}, [], {}
        kept: dict[str, str] = {}
        budget = self.max_bytes_per_tick
        for path in self.files():
            signature = _signature(path)
            if signature is None:
                continue
            if seen.get(path.name) == signature:
                kept[path.name] = signature
                continue
            size = int(signature.partition(":")[0])
            reason = _unready(path, now, self.settle_s) or self._over(len(new), size, budget)
            if reason:
                waiting[path.name] = reason
                continue
            budget -= size
            key = key_of(path)
            if _signature(path) != signature:
                waiting[path.name] = "changed while it was read"
                continue
            kept[path.name] = signature
            if same_content(key, known) is None:
                known.add(key)
                new.append(Landed(path.name, key, signature))
        return Scan(tuple(new), kept, waiting)

    def files(self) -> list[Path]:
        """Regular files with a database's suffix; hidden ones (a copy under way) and links are not looked at."""
        root = Path(self.folder)
        if not root.is_dir():
            return []
        return sorted(
            p for p in root.iterdir() if p.suffix in SUFFIXES and not p.name.startswith(".") and not p.is_symlink() and p.is_file()
        )

    def find(self, key: str) -> Path | None:
        """The file that a key names, by its content; those of the same stem are tried first."""
        digest = key[-_HASH_DIGITS:]
        files = sorted(self.files(), key=lambda path: (not key.startswith(path.stem[:8]), path.name))
        return next((path for path in files if sha256_file(path).startswith(digest)), None)

    def land(self, dump: Path) -> Path:
        """Put a dump down under its own name, by one rename, unless the same content lies here already.

        A dump with a live WAL is copied by SQLite's backup, so that what it has committed is in the copy.
        """
        root = Path(self.folder)
        root.mkdir(parents=True, exist_ok=True)
        dump = dump.resolve(strict=True)
        if dump.parent == root.resolve():
            return dump
        handle, name = tempfile.mkstemp(dir=root, prefix=".landing-")
        os.close(handle)
        beside = Path(name)
        try:
            _copy(dump, beside)
            digest = sha256_file(beside)
            here = next(
                (path for path in self.files() if path.stat().st_size == beside.stat().st_size and sha256_file(path) == digest), None
            )
            if here is not None:
                return here
            final = root / (dump.name if dump.suffix in SUFFIXES else f"{dump.name}.sqlite")
            beside.chmod(0o644)
            return beside.replace(final)
        finally:
            beside.unlink(missing_ok=True)

    def _over(self, num_new: int, size: int, budget: int) -> str:
        if size > self.max_bytes_per_tick:
            return f"larger than a tick may hash ({self.max_bytes_per_tick} bytes): land it with `plusultra run`"
        if num_new >= self.max_new_per_tick or size > budget:
            return "left for the next tick"
        return ""


def _signature(path: Path) -> str | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return f"{status.st_size}:{status.st_mtime_ns}"


def _unready(path: Path, now_s: float, settle_s: float) -> str:
    """Why a file is not taken yet; empty when it lies still and is whole."""
    try:
        status = path.stat()
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        return f"cannot be read ({error})"
    if now_s - status.st_mtime < settle_s:
        return "still settling"
    if header[:16] != _MAGIC or len(header) < 100:
        return "not a SQLite database"
    for sidecar in _SIDECARS:
        beside = path.with_name(path.name + sidecar)
        if beside.exists() and beside.stat().st_size:
            return f"{beside.name} lies beside it: its writer has not finished"
    page = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    size = (65536 if page == 1 else page) * pages
    if pages and header[24:28] == header[92:96] and size != status.st_size:
        return f"header says {size} bytes, found {status.st_size}: half a copy"
    return ""


def _copy(source: Path, target: Path) -> None:
    log = source.with_name(source.name + "-wal")
    if not (log.exists() and log.stat().st_size):
        shutil.copyfile(source, target)
        return
    with sqlite3.connect(f"file:{source}?mode=ro", uri=True) as reader, sqlite3.connect(target) as writer:
        reader.backup(writer)
    reader.close()
    writer.close()
