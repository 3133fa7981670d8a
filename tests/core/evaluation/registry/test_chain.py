"""The signed chain: what is cut, copied, half written or readable by others is found."""

import json
import os
import threading
from pathlib import Path

import pytest

from plusultra_core.artifacts import canonical_json, publish, sha256_bytes
from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.evaluation.registry.chain import (
    DECISIONS,
    KEY,
    append,
    class_folder,
    locked,
    make_key,
    read_chain,
    read_key,
    roll_back,
    standing,
)
from plusultra_core.evaluation.registry.champions import scorecard_of
from plusultra_core.evaluation.registry.records import Decision


def decided(name: str, promoted: bool = True) -> Decision:
    return Decision(promoted, name, None, "because", (), {"challenger_sha256": sha256_bytes(canonical_json({"name": name}))})


@pytest.fixture
def key(tmp_path: Path) -> bytes:
    return make_key(tmp_path)


def test_a_key_that_others_may_read_or_that_is_cut_opens_nothing(tmp_path: Path, key: bytes) -> None:
    assert read_key(tmp_path) == key
    for mode in (0o640, 0o604, 0o660):
        (tmp_path / KEY).chmod(mode)
        with pytest.raises(ArtifactError, match=f"found mode {mode:o}; chmod 600"):
            read_key(tmp_path)
        with pytest.raises(ArtifactError, match="for its owner only"):
            make_key(tmp_path)
    (tmp_path / KEY).chmod(0o600)
    (tmp_path / KEY).write_bytes(b"")
    with pytest.raises(ArtifactError, match="at least 16 bytes, found 0"):
        read_key(tmp_path)


def test_many_that_make_the_key_at_once_get_the_same_whole_one(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(make_key(tmp_path / "new"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert os.listdir(tmp_path / "new") == [KEY]  # noqa: PTH208


@pytest.mark.parametrize("name", ["", "..", "../equity", "/etc", ".", "equity/../crypto", "equity\0", "Equity"])
def test_a_name_is_never_a_way_to_another_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="expected the name of an asset class"):
        class_folder(tmp_path, name)


def test_a_decision_that_is_replayed_reordered_or_of_another_home_is_refused(tmp_path: Path, key: bytes) -> None:
    folder = tmp_path / "equity"
    for name in ("a", "b", "c"):
        append(folder, key, decided(name))
    lines = (folder / DECISIONS).read_bytes().splitlines(keepends=True)
    elsewhere = append(tmp_path / "other", make_key(tmp_path / "home"), decided("d"))
    for forged in ([*lines, lines[0]], [*lines, lines[2]], [lines[1], lines[0], lines[2]], lines[1:], [*lines, canonical_json(elsewhere)]):
        (folder / DECISIONS).write_bytes(b"".join(forged))
        with pytest.raises(ArtifactError, match="promotion record"):
            read_chain(folder, key)


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b"{}", b"null", b"3", b"\xff", b'"x"', b'{"decision": 1, "previous": "", "signature": ""}']
)
def test_what_is_no_chain_is_refused_in_one_sentence(tmp_path: Path, key: bytes, content: bytes) -> None:
    (tmp_path / "equity").mkdir()
    (tmp_path / "equity" / DECISIONS).write_bytes(content)
    with pytest.raises(ArtifactError):
        read_chain(tmp_path / "equity", key)


def test_two_writers_at_once_lose_no_decision(tmp_path: Path, key: bytes) -> None:
    folder = tmp_path / "equity"

    def write(name: str) -> None:
        for number in range(10):
            with locked(folder):
                append(folder, key, decided(f"{name}{number}"))

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_chain(folder, key)) == 20


def test_rollbacks_lead_to_champions_alone_and_never_below_the_first(tmp_path: Path, key: bytes) -> None:
    folder = tmp_path / "equity"
    for name, promoted in (("a", True), ("never", False), ("b", True), ("never too", False), ("c", True)):
        append(folder, key, decided(name, promoted))
    found = [roll_back(folder, key, "equity", "ana", "loses").decision.strategy for _ in range(2)]
    assert found == ["b", "a"]
    with pytest.raises(ContractError, match="no champion to go back to"):
        roll_back(folder, key, "equity", "ana", "loses")
    append(folder, key, decided("d"))
    assert [entry.decision.strategy for entry in standing(read_chain(folder, key))] == ["a", "d"]
    assert roll_back(folder, key, "equity", "ana", "loses").decision.strategy == "a"


def test_a_scorecard_that_cannot_be_read_harms_no_other(tmp_path: Path, key: bytes) -> None:
    card = tmp_path / "scorecard"
    publish(card, "own", lambda folder: (folder / "scorecard.json").write_bytes(canonical_json({"name": "a"})) and None, {})
    append(tmp_path / "equity", key, decided("a"))
    entry = read_chain(tmp_path / "equity", key)[0]
    for name, content in (("torn", "{"), ("nan", "NaN"), ("deep", "[" * 200_000)):
        (card / name).mkdir()
        (card / name / "scorecard.json").write_text(content)
    assert json.loads((scorecard_of(entry, tmp_path).path / "scorecard.json").read_text()) == {"name": "a"}
