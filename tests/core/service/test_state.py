"""What is served is whole and is what was meant; otherwise the old one stays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plusultra_core.artifacts import Artifact
from plusultra_core.errors import ArtifactError
from plusultra_core.service.state import ServiceState, part_sha256, point, publish_served

Door = Any


def test_a_damaged_directory_is_refused_and_the_old_one_serves_on(door: Door, served_dir: Callable[[str], Artifact]) -> None:
    before = door.state.served
    artifact = served_dir("second")
    (artifact.path / "x").write_text("tampered")
    assert not door.state.swap(artifact.path, artifact.sha256)
    assert door.state.served is before
    assert "ArtifactError" in door.state.refusal
    assert door.forecast({"symbols": ["AAPL"]}).json()["lineage"]["dump"] == "first"


def test_a_directory_that_is_not_the_one_meant_is_refused(door: Door, served_dir: Callable[[str], Artifact]) -> None:
    assert not door.state.swap(served_dir("second").path, "0" * 64)
    assert "expected sha256 0000" in door.state.refusal
    assert not door.state.swap(Path("/nowhere"), "0" * 64)
    assert door.state.served.lineage["dump"] == "first"


def test_an_opener_that_refuses_keeps_the_old_one(served_dir: Callable[[str], Artifact]) -> None:
    def refuse(path: Path, artifact: Artifact) -> Any:
        raise ArtifactError("weights are not finite")

    state = ServiceState(refuse)
    artifact = served_dir("first")
    assert not state.swap(artifact.path, artifact.sha256)
    assert state.served is None
    assert state.refusal == "ArtifactError: weights are not finite"


def test_the_pointer_is_followed_once_and_a_refusal_is_not_tried_again(
    door: Door, served_dir: Callable[[str], Artifact], tmp_path: Path
) -> None:
    pointer = tmp_path / "current.json"
    second = served_dir("second")
    point(pointer, second)
    assert door.state.refresh(pointer) is True
    assert door.state.refresh(pointer) is None
    assert door.state.served.lineage["dump"] == "second"
    pointer.write_text(json.dumps({"path": str(second.path), "sha256": "0" * 64}))
    assert door.state.refresh(pointer) is False
    assert door.state.refresh(pointer) is None
    assert door.state.served.lineage["dump"] == "second"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"path": 3, "sha256": "x"}'])
def test_a_pointer_that_names_nothing_changes_nothing(door: Door, content: str, tmp_path: Path) -> None:
    (tmp_path / "current.json").write_text(content)
    assert door.state.refresh(tmp_path / "current.json") is False
    assert door.state.served.lineage["dump"] == "first"


def test_a_served_directory_holds_copies_with_their_names(tmp_path: Path) -> None:
    for name, file in (("a", "bundle.json"), ("b", "manifest.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(name)
    artifact = publish_served(tmp_path / "a", tmp_path / "b", tmp_path / "store", "k", {"lineage": {}})
    (tmp_path / "a" / "bundle.json").unlink()
    assert sorted(artifact.manifest["files"]) == ["bundle/bundle.json", "panel/manifest.json"]
    assert part_sha256(artifact.path, "bundle") == artifact.manifest["files"]["bundle/bundle.json"]["sha256"]
    assert part_sha256(artifact.path, "panel") == artifact.manifest["files"]["panel/manifest.json"]["sha256"]
