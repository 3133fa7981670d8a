"""From what an analyst sends to annotations: one strict JSON object a line, known from when it is written down."""

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from plusultra_core.artifacts import canonical_json, sha256_bytes
from plusultra_core.clock import NS_PER_S
from plusultra_core.errors import ContractError
from plusultra_core.feedback.annotations import Annotation, Decision, FeedbackConfig, append_all

MAX_BYTES = 16 << 20
MAX_LINES = 10_000
_NEEDED = ("trade_id", "trade_timestamp", "decision", "rationale", "author")
_OPTIONAL = ("symbol", "confidence", "tags", "metadata", "context_window_start", "context_window_end", "client_key")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|\+00:00)")


def read_lines(path: Path, now_ns: int, cfg: FeedbackConfig) -> list[Annotation]:
    """Every annotation of a file of JSON lines, all known from `now_ns` on.

    Raises  ContractError for the first line that is refused, or a file that is none; nothing is taken then.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # whatever size it says it has: a pipe has none
        if len(content) > MAX_BYTES:
            raise ContractError(f"{path}: expected at most {MAX_BYTES} bytes, found more; cut it in parts")
        text = content.decode().replace("\r\n", "\n")
        lines = text.removesuffix("\n").split("\n") if text else []  # JSON may hold what else ends a line
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"{path}: cannot be read as UTF-8 text ({error}); name a file of JSON lines") from error
    if not lines or len(lines) > MAX_LINES:
        raise ContractError(f"{path}: expected 1-{MAX_LINES} lines, found {len(lines)}; one JSON object a line")
    return [parse(_object(line, f"{path}:{number}"), f"{path}:{number}", now_ns, cfg) for number, line in enumerate(lines, 1)]


def parse(raw: Mapping[str, Any], where: str, now_ns: int, cfg: FeedbackConfig) -> Annotation:
    """One annotation out of plain JSON, in the words of the dump's `trade_annotations`.

    `created_at` is nobody's to say: a judgement is known from `now_ns`, when it is written down, and never before. Without a `client_key`
    the content is the key, so that sending it twice adds nothing.
    Raises  ContractError for an unknown or missing field, a wrong type, a word or a time that is none, or a trade in the future.
    """
    if "created_at" in raw:
        raise ContractError(f"{where}: created_at: not taken, a judgement is known from when it is written down; leave it out")
    strange, missing = sorted(set(raw) - {*_NEEDED, *_OPTIONAL}), [name for name in _NEEDED if name not in raw]
    if strange or missing:
        found = f"unknown {strange[0][:40]!r}" if strange else f"no {missing[0]!r}"
        raise ContractError(f"{where}: expected the fields {', '.join(_NEEDED)} and of {', '.join(_OPTIONAL)}, found {found}")
    start, end = (_time(raw.get(name), f"{where}: {name}") for name in ("context_window_start", "context_window_end"))
    trade_ns = _time(_typed(raw, "trade_timestamp", str, where), f"{where}: trade_timestamp")
    decision = _typed(raw, "decision", str, where)
    if decision not in get_args(Decision):
        raise ContractError(f"{where}: decision: expected one of {', '.join(get_args(Decision))}, found {decision[:40]!r}")
    if trade_ns is None or trade_ns > now_ns:
        raise ContractError(f"{where}: trade_timestamp: expected a time that has been, found {raw['trade_timestamp']!r}")
    if not _typed(raw, "rationale", str, where).strip():
        raise ContractError(f"{where}: rationale: expected a reason in words, found {raw['rationale'][:40]!r}")
    if (start is None) != (end is None) or (start is not None and end is not None and end < start):
        found = f"{raw.get('context_window_start')!r} and {raw.get('context_window_end')!r}"
        raise ContractError(f"{where}: context_window_start, context_window_end: expected both, in this order, or neither, found {found}")
    confidence = _typed(raw, "confidence", (int, float), where)
    if confidence is not None and not 0.0 <= confidence <= 1.0:
        raise ContractError(f"{where}: confidence: expected a number in [0, 1], found {confidence}")
    tags = _typed(raw, "tags", list, where) or []
    if not all(isinstance(tag, str) for tag in tags):
        raise ContractError(f"{where}: tags: expected a list of texts")
    return Annotation(
        client_key=_typed(raw, "client_key", str, where) or f"sha256:{sha256_bytes(canonical_json(dict(raw)))}",
        trade_id=_typed(raw, "trade_id", str, where),
        symbol=_typed(raw, "symbol", str, where),
        trade_ns=trade_ns,
        decision=decision,
        rationale=_typed(raw, "rationale", str, where),
        confidence=None if confidence is None else float(confidence),
        tags=tuple(tags),
        author=_typed(raw, "author", str, where),
        created_ns=now_ns,
        metadata=_typed(raw, "metadata", dict, where),
        context_window_start_ns=start,
        context_window_end_ns=end,
    )


def add(store: sqlite3.Connection, annotations: Sequence[Annotation], cfg: FeedbackConfig) -> tuple[int, int]:
    """Write all of them or none; how many were new, and how many were there already.

    Where the clock went back they are known from when the newest of the store was: what was written later was not known before.
    Raises  ContractError for the first that the table refuses.
    """
    before = _count(store)
    newest_ns = int(store.execute("SELECT coalesce(max(created_ns), 0) FROM trade_annotations").fetchone()[0])
    append_all(store, [replace(said, created_ns=max(said.created_ns, newest_ns)) for said in annotations], cfg)
    new = _count(store) - before
    return new, len(annotations) - new


def _count(store: sqlite3.Connection) -> int:
    return int(store.execute("SELECT count(*) FROM trade_annotations").fetchone()[0])


def _object(line: str, where: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def finite(text: str) -> float:
        raise ValueError(f"{text} is no number")

    try:
        raw = json.loads(line, object_pairs_hook=once, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{where}: not one plain JSON object ({error}); write one a line") from error
    if not isinstance(raw, dict):
        raise ContractError(f"{where}: expected a JSON object, found {type(raw).__name__}; write one a line")
    return raw


def _typed(raw: Mapping[str, Any], name: str, kind: Any, where: str) -> Any:
    """The value of a field, None where it may be left out."""
    value = raw.get(name)
    if value is None and name in _OPTIONAL:
        return None
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ContractError(f"{where}: {name}: expected {_KINDS[name]}, found {type(value).__name__}")
    return value


_KINDS = dict.fromkeys((*_NEEDED, *_OPTIONAL), "a text") | {"confidence": "a number", "tags": "a list of texts", "metadata": "an object"}


def _time(text: object, where: str) -> int | None:
    """UTC nanoseconds of `YYYY-MM-DD HH:MM:SS[.fff]Z`; None stays."""
    if text is None:
        return None
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    try:
        if not isinstance(text, str) or match is None:
            raise ValueError
        whole = datetime.fromisoformat(f"{text[:19]}+00:00")
    except ValueError as error:
        raise ContractError(f"{where}: expected a UTC time like 2017-06-30T20:00:00Z, found {str(text)[:40]!r}") from error
    return int(whole.timestamp()) * NS_PER_S + int((match.group(1) or ".0")[1:].ljust(9, "0"))
