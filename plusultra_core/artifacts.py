"""Content-addressed directories, published whole or not at all.

An artifact is a directory `<store>/<key>` with a `manifest.json` that lists every file with its
sha256 and size. It appears under its name by one rename: a reader never sees a half.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plusultra_core.errors import ArtifactError

MANIFEST = "manifest.json"
_TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published directory; `sha256` is that of its manifest and so of all its files."""

    path: Path
    sha256: str
    manifest: dict[str, Any]


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys, no spaces, no NaN, and a final newline: equal values, equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def sha256_bytes(content: bytes) -> str:
    """Hex sha256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file by new content: afterwards it holds the old bytes or the new ones, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)  # mkstemp makes it the owner's alone
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _fsync_directory(path.parent)


def publish(store: Path, key: str, fill: Callable[[Path], None], manifest: Mapping[str, object]) -> Artifact:
    """Let `fill` write a directory and publish it as `store/key`, unless that exists already.

    `manifest` must be JSON and the same for the same content: no times, no run ids, no absolute paths.
    Raises  ArtifactError when `fill` wrote nothing or the key is not a plain name.
    """
    final = store / _plain_name(key)
    if final.exists():
        return open_artifact(final)
    store.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=store, prefix=_TEMPORARY))
    try:
        fill(work)
        files = _list_files(work)
        if not files and not (work / MANIFEST).exists():
            raise ArtifactError(f"{final}: nothing was written, an artifact has at least one file")
        if (work / MANIFEST).exists():
            raise ArtifactError(f"{final}/{MANIFEST}: written by the station itself; the manifest is an argument of publish")
        _fsync_tree(work)
        write_atomic(work / MANIFEST, canonical_json({**manifest, "files": files, "key": key}))
        work.chmod(0o755)
        try:
            work.rename(final)
        except OSError:
            if not final.exists():
                raise
        _fsync_directory(store)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return open_artifact(final, verify=False)


def open_artifact(path: Path, verify: bool = True) -> Artifact:
    """A published directory, its files checked against the manifest.

    Raises  ArtifactError when it is missing, a file is missing, added or has other bytes.
    """
    try:
        content = (path / MANIFEST).read_bytes()
        manifest = json.loads(content)
        listed = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: no artifact with a readable {MANIFEST} ({error}); make it again") from error
    if verify:
        found = _list_files(path)
        for name in sorted(set(found) | set(listed)):
            if found.get(name) != listed.get(name):
                raise ArtifactError(f"{path}/{name}: expected {listed.get(name)}, found {found.get(name)}; make it again")
    return Artifact(path=path, sha256=sha256_bytes(content), manifest=manifest)


def sweep(store: Path) -> int:
    """Remove what a killed publisher left behind; returns how many directories went.

    Call it only while no publisher is at work in `store`.
    """
    orphans = [path for path in store.glob(f"{_TEMPORARY}*") if path.is_dir()] if store.is_dir() else []
    for path in orphans:
        shutil.rmtree(path, ignore_errors=True)
    return len(orphans)


def _plain_name(key: str) -> str:
    if not key or key.startswith(".") or "/" in key or "\0" in key or len(key) > 128:
        raise ArtifactError(f"artifact key: expected a plain name of 1-128 characters, found {key!r}")
    return key


def _list_files(root: Path) -> dict[str, dict[str, object]]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        for path in files
        if path != root / MANIFEST
    }


def _fsync_tree(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _fsync_directory(path)


def _fsync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
