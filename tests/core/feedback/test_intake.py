"""What analysts send: strict, all or nothing, and known from when it is written down."""

import dataclasses
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plusultra_core.config import load
from plusultra_core.errors import ContractError
from plusultra_core.feedback.annotations import FeedbackConfig, open_store, read
from plusultra_core.feedback.intake import MAX_BYTES, add, parse, read_lines

NOW_NS = 1_700_000_000 * 10**9
ONE = {
    "trade_id": "policy:7",
    "trade_timestamp": "2023-11-13T21:00:00.5Z",
    "decision": "reject",
    "rationale": "earnings tomorrow",
    "author": "ana",
    "symbol": "x'; DROP TABLE trade_annotations;--",
    "confidence": 1,
    "tags": ["event"],
    "metadata": {"ticket": 12},
    "context_window_start": "2023-11-13 00:00:00Z",
    "context_window_end": "2023-11-14 00:00:00+00:00",
}


@pytest.fixture(scope="module")
def cfg(root: Path) -> FeedbackConfig:
    return load(FeedbackConfig, root / "configs/smoke/feedback.yaml")


@pytest.fixture
def store(tmp_path: Path, cfg: FeedbackConfig) -> Iterator[sqlite3.Connection]:
    connection = open_store(tmp_path / "annotations.sqlite", cfg)
    yield connection
    connection.close()


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_a_line_becomes_a_row_that_is_known_from_now_and_never_before(
    tmp_path: Path, store: sqlite3.Connection, cfg: FeedbackConfig
) -> None:
    assert add(store, read_lines(lines(tmp_path / "said.jsonl", ONE), NOW_NS, cfg), cfg) == (1, 0)
    row = read(store, NOW_NS).row(0, named=True)
    assert (row["created_ns"], row["trade_ns"]) == (NOW_NS, 1_699_909_200_500_000_000)
    assert (row["symbol"], row["author"], row["confidence"]) == (ONE["symbol"], "ana", 1.0)
    assert row["context_window_end_ns"] - row["context_window_start_ns"] == 86_400 * 10**9
    assert read(store, NOW_NS - 1).is_empty()


def test_the_same_line_twice_is_one_row_though_the_clock_has_moved(store: sqlite3.Connection, cfg: FeedbackConfig) -> None:
    assert add(store, [parse(ONE, "a", NOW_NS, cfg)], cfg) == (1, 0)
    again = [parse(ONE, "a", NOW_NS + 5, cfg), parse({**ONE, "decision": "approve"}, "a", NOW_NS + 5, cfg)]
    assert add(store, again, cfg) == (1, 1)
    assert read(store, NOW_NS).height == 1


def test_one_line_that_is_refused_leaves_the_store_as_it_was(tmp_path: Path, store: sqlite3.Connection, cfg: FeedbackConfig) -> None:
    good = [{**ONE, "trade_id": f"policy:{number}"} for number in range(3)]
    with pytest.raises(ContractError, match=r"said\.jsonl:3: decision: expected one of approve, .*, escalate, found 'veto'"):
        read_lines(lines(tmp_path / "said.jsonl", *good[:2], {**ONE, "decision": "veto"}, good[2]), NOW_NS, cfg)
    blank = dataclasses.replace(parse(ONE, "a", NOW_NS, cfg), rationale="  ", client_key="blank")
    with pytest.raises(ContractError, match="mend the annotation of trade 'policy:7'"):
        add(store, [*(parse(row, "a", NOW_NS, cfg) for row in good), blank], cfg)
    assert read(store, NOW_NS).is_empty()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"created_at": "2020-01-01T00:00:00Z"}, "created_at: not taken, a judgement is known from when it is written down"),
        ({"trade_timestamp": "2024-11-13T21:00:00Z"}, "trade_timestamp: expected a time that has been"),
        ({"trade_timestamp": "2023-02-30T21:00:00Z"}, "expected a UTC time like 2017-06-30T20:00:00Z"),
        ({"trade_timestamp": "2023-11-13T21:00:00"}, "expected a UTC time like"),
        ({"trade_timestamp": 5}, "trade_timestamp: expected a text, found int"),
        ({"author": None}, "author: expected a text, found NoneType"),
        ({"confidence": 1.5}, r"confidence: expected a number in \[0, 1\], found 1.5"),
        ({"confidence": True}, "confidence: expected a number, found bool"),
        ({"tags": "event"}, "tags: expected a list of texts, found str"),
        ({"tags": [1]}, "tags: expected a list of texts"),
        ({"metadata": []}, "metadata: expected an object, found list"),
        ({"weight": 2}, "found unknown 'weight'"),
        ({"rationale": " "}, "rationale: expected a reason in words"),
        ({"context_window_end": None}, "context_window_end: expected both, in this order, or neither"),
        ({"context_window_end": "2023-11-12 00:00:00Z"}, "context_window_end: expected both, in this order, or neither"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused_in_one_sentence(change: dict[str, Any], message: str, cfg: FeedbackConfig) -> None:
    with pytest.raises(ContractError, match=f"^annotation: {message}|^annotation: .*{message}") as refused:
        parse({**ONE, **change}, "annotation", NOW_NS, cfg)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a JSON object, found list"),
        ("{", "not one plain JSON object"),
        ("[" * 100_000, "not one plain JSON object"),
        ('{"confidence": NaN}', "NaN is no number"),
        ('{"author": "ana", "author": "bob"}', "a key stands twice"),
        ('{"author": "ana"}', "found no 'trade_id'"),
    ],
)
def test_a_line_that_is_no_annotation_is_refused_by_its_number(text: str, message: str, tmp_path: Path, cfg: FeedbackConfig) -> None:
    with pytest.raises(ContractError, match=rf"said\.jsonl:2: .*{message}"):
        read_lines(lines(tmp_path / "said.jsonl", ONE, text), NOW_NS, cfg)


def test_a_file_that_is_none_is_refused(tmp_path: Path, cfg: FeedbackConfig) -> None:
    with pytest.raises(ContractError, match="cannot be read as UTF-8 text"):
        read_lines(tmp_path / "none.jsonl", NOW_NS, cfg)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ContractError, match="cannot be read as UTF-8 text"):
        read_lines(tmp_path / "bytes", NOW_NS, cfg)
    (tmp_path / "empty").touch()
    with pytest.raises(ContractError, match="expected 1-10000 lines, found 0"):
        read_lines(tmp_path / "empty", NOW_NS, cfg)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ContractError, match="cut it in parts"):
        read_lines(tmp_path / "huge", NOW_NS, cfg)


def test_a_pipe_without_an_end_is_not_read_to_its_end(cfg: FeedbackConfig) -> None:
    with pytest.raises(ContractError, match="expected at most 16777216 bytes, found more"):
        read_lines(Path("/dev/zero"), NOW_NS, cfg)


def test_what_ends_a_line_elsewhere_ends_none_of_json(tmp_path: Path, cfg: FeedbackConfig) -> None:
    said = {**ONE, "rationale": "one\u2028two\u2029three"}
    (tmp_path / "said.jsonl").write_bytes((json.dumps(said, ensure_ascii=False) + "\r\n").encode() * 2)
    assert [row.rationale for row in read_lines(tmp_path / "said.jsonl", NOW_NS, cfg)] == ["one\u2028two\u2029three"] * 2


@pytest.mark.parametrize(
    ("change", "found"),
    [({"rationale": "\ud800"}, "rationale"), ({"rationale": "no\x1b[2J"}, "rationale"), ({"tags": ["a", "b\x00"]}, "tags")]
    + [({name: f"{ONE[name]} "}, name) for name in ("symbol", "trade_id", "author")]
    + [({"symbol": "AAPL\u200b"}, "symbol"), ({"symbol": "\u00a0AAPL"}, "symbol")],
)
def test_text_that_shows_as_something_else_is_refused(
    change: dict[str, Any], found: str, store: sqlite3.Connection, cfg: FeedbackConfig
) -> None:
    with pytest.raises(ContractError, match=f"trade_annotations.{found}: expected"):
        add(store, [parse({**ONE, **change}, "a", NOW_NS, cfg)], cfg)


def test_a_clock_that_goes_back_makes_nothing_known_earlier(store: sqlite3.Connection, cfg: FeedbackConfig) -> None:
    add(store, [parse(ONE, "a", NOW_NS, cfg)], cfg)
    add(store, [parse({**ONE, "trade_id": "policy:8"}, "a", NOW_NS - 3_600 * 10**9, cfg)], cfg)
    assert read(store, NOW_NS - 1).is_empty()
    assert read(store, NOW_NS)["created_ns"].to_list() == [NOW_NS, NOW_NS]
