"""Following the chain: never to an older state, never dead, and back when what was missing is back. What is published is a fake."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plusultra_core.artifacts import Artifact, canonical_json
from plusultra_core.errors import ArtifactError
from plusultra_core.evaluation.registry.chain import DECISIONS, append, champion_entry, make_key, read_chain
from plusultra_core.evaluation.registry.records import Decision
from plusultra_core.service.champions import publish as champions
from plusultra_core.service.champions.publish import Follower

Door = Any


@pytest.fixture
def at(tmp_path: Path, served_dir: Callable[[str], Artifact], monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A registry whose champion is published as a directory of its strategy's name; `missing` are those that are not there."""
    registry, missing = tmp_path / "registry", set[str]()
    key = make_key(registry)

    def publish(registry: Path, artifacts: Path, asset_class: str, store: Path) -> Artifact:
        strategy = champion_entry(read_chain(registry / asset_class, key), asset_class).decision.strategy
        if strategy in missing:
            raise ArtifactError(f"{store}/{strategy}: gone")
        return served_dir(strategy)

    def promote(name: str) -> None:
        append(registry / "equity", key, Decision(True, name, None, "because", (), {}))

    def follower() -> Follower:
        return Follower(registry, tmp_path, "equity", tmp_path / "served")

    monkeypatch.setattr(champions, "publish_champion", publish)
    chain = registry / "equity" / DECISIONS
    yield SimpleNamespace(promote=promote, follower=follower, missing=missing, chain=chain, registry=registry)


def serving(door: Door) -> str:
    return str(door.forecast({"symbols": ["AAPL"]}).json()["lineage"]["dump"])


def test_a_chain_that_is_cut_short_is_not_followed_even_by_the_next_process(empty_door: Door, at: Any, tmp_path: Path) -> None:
    state, follower = empty_door.state, at.follower()
    at.promote("old")
    older = at.chain.read_bytes()
    at.promote("new")
    newer = at.chain.read_bytes()
    assert follower.look(state) is True
    at.chain.write_bytes(older)
    assert follower.look(state) is False
    assert "was followed and stands there no more; restore the chain" in state.refusal
    assert serving(empty_door) == "new"
    assert at.follower().look(state) is False
    at.chain.unlink()
    assert at.follower().look(state) is False
    at.chain.write_bytes(newer)
    assert at.follower().look(state) is True
    at.chain.write_bytes(older)
    (tmp_path / "served" / "equity.head").unlink()
    assert at.follower().look(state) is True
    assert serving(empty_door) == "old"


def test_what_was_missing_is_looked_for_again_ever_more_rarely(empty_door: Door, at: Any) -> None:
    state, follower = empty_door.state, at.follower()
    at.promote("first")
    at.missing.add("first")
    looks = [follower.look(state) for _ in range(200)]
    assert looks[:8] == [False, False, None, False, None, None, None, False]
    assert sum(look is False for look in looks) == 9
    at.missing.clear()
    assert True in [follower.look(state) for _ in range(64)]
    assert {follower.look(state) for _ in range(200)} == {None}


@pytest.mark.parametrize("damage", ["folder", "deep", "key"])
def test_no_damage_ends_the_looking(empty_door: Door, at: Any, damage: str) -> None:
    state, follower = empty_door.state, at.follower()
    at.promote("first")
    assert follower.look(state) is True
    whole = at.chain.read_bytes()
    at.promote("second")
    newer = at.chain.read_bytes()
    if damage == "folder":
        at.chain.unlink()
        at.chain.mkdir()
    elif damage == "deep":
        at.chain.write_bytes(b"[" * 200_000)
    else:
        (at.registry / "signing.key").chmod(0o644)
    assert follower.look(state) is False
    assert serving(empty_door) == "first"
    if damage == "folder":
        at.chain.rmdir()
    (at.registry / "signing.key").chmod(0o600)
    at.chain.write_bytes(newer)
    assert True in [follower.look(state) for _ in range(4)]
    assert serving(empty_door) == "second"
    assert whole in newer


def test_whatever_a_library_raises_the_old_one_serves_on(door: Door, served_dir: Callable[[str], Artifact], tmp_path: Path) -> None:
    for error in (RuntimeError("weights"), MemoryError(), IndexError("x"), RecursionError(), AttributeError("x")):

        def refuse(path: Path, artifact: Artifact, error: Exception = error) -> Any:
            raise error

        artifact = served_dir("second")
        door.state._open, before = refuse, door.state._open
        assert door.state.swap(artifact.path, artifact.sha256) is False
        assert door.state.why == "what is named cannot be loaded"
        door.state._open = before
        assert serving(door) == "first"
    (tmp_path / "pointer.json").write_text("[" * 200_000)
    assert door.state.refresh(tmp_path / "pointer.json") is False


def test_a_directory_that_changes_while_it_is_loaded_is_refused(door: Door, served_dir: Callable[[str], Artifact]) -> None:
    whole = door.state._open

    def swapped(path: Path, artifact: Artifact) -> Any:
        (path / "x").write_text("other weights")
        return whole(path, artifact)

    artifact = served_dir("second")
    door.state._open = swapped
    assert door.state.swap(artifact.path, artifact.sha256) is False
    assert serving(door) == "first"


def test_who_asks_without_a_key_is_told_why_and_never_where(empty_door: Door, tmp_path: Path) -> None:
    pointer = tmp_path / "a folder" / "pointer.json"
    pointer.parent.mkdir()
    for content in ("{", canonical_json({"path": str(tmp_path / "gone"), "sha256": "0" * 64}).decode(), "[1"):
        pointer.write_text(content)
        assert empty_door.state.refresh(pointer) is False
        assert str(tmp_path) in empty_door.state.refusal
        told = json.dumps(empty_door.ask("GET", "/v1/ready", None).json())
        assert "what is named" in told
        assert "/" not in told.replace("/v1", "")
