"""An artifact is there whole or not at all, and no changed byte passes."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from plusultra_core import artifacts
from plusultra_core.errors import ArtifactError


def fill(content: bytes = b"hello") -> object:
    def write(folder: Path) -> None:
        (folder / "a.bin").write_bytes(content)
        (folder / "deep").mkdir()
        (folder / "deep" / "b.txt").write_text("b")

    return write


def published(store: Path) -> artifacts.Artifact:
    return artifacts.publish(store, "key", fill(), {"station": "test"})  # type: ignore[arg-type]


def test_a_published_artifact_lists_every_file_with_its_hash_and_size(tmp_path: Path) -> None:
    made = published(tmp_path)
    assert made.path == tmp_path / "key"
    assert sorted(made.manifest["files"]) == ["a.bin", "deep/b.txt"]
    assert made.manifest["files"]["a.bin"] == {"sha256": artifacts.sha256_bytes(b"hello"), "bytes": 5}
    assert made.manifest["station"] == "test" and made.manifest["key"] == "key"
    assert made.sha256 == artifacts.sha256_file(made.path / "manifest.json")
    assert artifacts.open_artifact(made.path) == made
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_equal_content_has_an_equal_hash_wherever_it_lies(tmp_path: Path) -> None:
    one, two = published(tmp_path / "one"), published(tmp_path / "two")
    assert one.sha256 == two.sha256 and str(tmp_path).encode() not in (one.path / "manifest.json").read_bytes()


def test_others_may_read_what_is_published(tmp_path: Path) -> None:
    made = published(tmp_path)
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in [made.path, *made.path.rglob("*")])


def test_a_key_that_is_there_is_returned_and_not_made_again(tmp_path: Path) -> None:
    first = published(tmp_path)
    again = artifacts.publish(tmp_path, "key", lambda folder: pytest.fail("filled again"), {})
    assert again == first


def test_a_fill_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        artifacts.publish(tmp_path, "key", broken, {})
    with pytest.raises(ArtifactError, match="nothing was written"):
        artifacts.publish(tmp_path, "key", lambda folder: None, {})
    with pytest.raises(ArtifactError, match="the manifest is an argument"):
        artifacts.publish(tmp_path, "key", lambda folder: artifacts.write_atomic(folder / "manifest.json", b"{}"), {})
    with pytest.raises(ValueError, match="JSON compliant"):
        artifacts.publish(tmp_path, "key", fill(), {"loss": float("nan")})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["", "..", ".hidden", "a/b", "/abs", "a\0b", "x" * 129])
def test_a_key_is_a_plain_name(key: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected a plain name"):
        artifacts.publish(tmp_path / "store", key, fill(), {})  # type: ignore[arg-type]
    assert not (tmp_path / "store").exists()


TAMPERS = {
    "another byte": lambda path: (path / "a.bin").write_bytes(b"hellO"),
    "a missing file": lambda path: (path / "a.bin").unlink(),
    "an added file": lambda path: (path / "extra").write_text(""),
    "an added file in a folder": lambda path: (path / "deep" / "manifest.json").write_text("{}"),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "half a manifest": lambda path: (path / "manifest.json").write_bytes((path / "manifest.json").read_bytes()[:-20]),
    "a list for a manifest": lambda path: (path / "manifest.json").write_text("[]"),
    "a number for the files": lambda path: (path / "manifest.json").write_text('{"files": 3}'),
    "a name for the files": lambda path: (path / "manifest.json").write_text('{"files": "a.bin"}'),
}


@pytest.mark.parametrize("name", TAMPERS)
def test_a_changed_artifact_is_refused(name: str, tmp_path: Path) -> None:
    path = published(tmp_path).path
    TAMPERS[name](path)
    with pytest.raises(ArtifactError, match="make it again"):
        artifacts.open_artifact(path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="make it again"):
        artifacts.open_artifact(tmp_path / "none")


def test_without_verifying_only_the_manifest_is_read(tmp_path: Path) -> None:
    path = published(tmp_path).path
    (path / "a.bin").write_bytes(b"other")
    assert artifacts.open_artifact(path, verify=False).path == path


KILLED = """
import os, signal, sys
from pathlib import Path
from plusultra_core import artifacts
moment, store = sys.argv[1], Path(sys.argv[2])
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def fill(folder):
    (folder / "a.bin").write_bytes(b"hello")
    if moment == "inside fill": die()
if moment == "before the manifest": artifacts.write_atomic = die
if moment == "before the rename": Path.rename = die
artifacts.publish(store, "key", fill, {})
"""


@pytest.mark.parametrize("moment", ["inside fill", "before the manifest", "before the rename"])
def test_a_publisher_killed_before_the_rename_leaves_no_artifact(moment: str, tmp_path: Path, root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, moment, str(tmp_path)], cwd=root, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "key").exists()
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and left[0].name.startswith(".tmp-")
    assert published(tmp_path).manifest["files"]["a.bin"]["bytes"] == 5
    assert artifacts.sweep(tmp_path) == 1 and [path.name for path in tmp_path.iterdir()] == ["key"]
    assert artifacts.sweep(tmp_path) == 0 and artifacts.sweep(tmp_path / "none") == 0


def test_publishers_at_the_same_time_agree_on_one_artifact(tmp_path: Path) -> None:
    gate, made = threading.Barrier(4), []

    def work() -> None:
        def slow(folder: Path) -> None:
            fill()(folder)  # type: ignore[operator]
            gate.wait(timeout=20)

        made.append(artifacts.publish(tmp_path, "key", slow, {}))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(made) == 4 and len({one.sha256 for one in made}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_canonical_json_is_one_writing_for_one_value() -> None:
    assert artifacts.canonical_json({"b": 1, "a": [1.5, None]}) == b'{"a":[1.5,null],"b":1}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        artifacts.canonical_json(float("inf"))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file.json"
    artifacts.write_atomic(path, b"old")
    artifacts.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"

    def fails(_: int) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="disk is full"):
        artifacts.write_atomic(path, b"half")
    assert path.read_bytes() == b"new" and [one.name for one in path.parent.iterdir()] == ["file.json"]


def test_a_manifest_is_plain_json(tmp_path: Path) -> None:
    content = (published(tmp_path).path / "manifest.json").read_bytes()
    assert artifacts.canonical_json(json.loads(content)) == content
