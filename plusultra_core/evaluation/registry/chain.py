"""The signed chain of a class's decisions, who is champion by it, and the way back to the champion before.

`<registry>/<asset_class>/decisions.jsonl` holds one signed record a line, each with the signature of the one before it.
A promotion puts its challenger on top; a rollback takes the top away, as a record of its own in the same chain.
"""

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from plusultra_core.artifacts import canonical_json, write_atomic
from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.evaluation.registry.records import MIN_KEY_BYTES, Decision, sign, verify
from plusultra_core.market import ASSET_CLASSES

DECISIONS = "decisions.jsonl"
KEY = "signing.key"
ROLLED_BACK = "rolled_back"
_KEY_BYTES = 32
_MAX_WORDS = 500


class Entry(NamedTuple):
    """A verified record of the chain."""

    decision: Decision
    signature: str


def class_folder(registry: Path, asset_class: str) -> Path:
    """Where a class's decisions lie.

    Raises  ArtifactError for what is no class: a name is never a way to another folder.
    """
    if asset_class not in ASSET_CLASSES:
        raise ArtifactError(f"champion: expected the name of an asset class, of {', '.join(ASSET_CLASSES)}, found {asset_class[:40]!r}")
    return registry / asset_class


def read_chain(folder: Path, key: bytes) -> list[Entry]:
    """Every decision of a class, verified; none where nothing was decided.

    Raises  ArtifactError as `read_records`.
    """
    records = read_records(folder, key)
    previous = ["", *(str(record["signature"]) for record in records)]
    return [Entry(verify(record, key, before), str(record["signature"])) for record, before in zip(records, previous, strict=False)]


def read_records(folder: Path, key: bytes) -> list[dict[str, Any]]:
    """The records of a class as they are written, each verified with the one before it.

    Raises  ArtifactError when a line is no record, was edited, removed or added, or the file is another's.
    """
    path = folder / DECISIONS
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        records = [dict(json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path}: not a chain of decisions ({error}); restore it") from error
    previous = ""
    for line, record in enumerate(records, 1):
        try:
            verify(record, key, previous)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: line {line}: {error}") from error
        previous = str(record["signature"])
    return records


def append(folder: Path, key: bytes, decision: Decision) -> dict[str, Any]:
    """Sign a decision and put it at the chain's end, the caller holding `locked`; the file holds the old chain or the new one."""
    entries = read_chain(folder, key)
    record = sign(decision, key, entries[-1].signature if entries else "")
    path = folder / DECISIONS
    write_atomic(path, (path.read_bytes() if path.exists() else b"") + canonical_json(record))
    return record


def standing(entries: Sequence[Entry]) -> list[Entry]:
    """Promotions that stand, oldest first: the last is the champion's, the one before it what a rollback leads to."""
    stack: list[Entry] = []
    for entry in entries:
        if ROLLED_BACK in entry.decision.evidence:
            stack = stack[:-1]
        elif entry.decision.promoted:
            stack.append(entry)
    return stack


def champion_entry(entries: Sequence[Entry], asset_class: str) -> Entry:
    """The decision that made the champion.

    Raises  ContractError when no promotion stands.
    """
    stack = standing(entries)
    if not stack:
        last = f", the last: {entries[-1].decision.reason}" if entries else ""
        raise ContractError(f"{asset_class}: no champion in {len(entries)} signed decisions{last}; nothing is served until one is promoted")
    return stack[-1]


def roll_back(folder: Path, key: bytes, asset_class: str, author: str, words: str) -> Entry:
    """Take the champion down and put the one before it back, as a signed decision of a person; the champion there is now.

    Raises  ContractError when there is no champion before this one, or who and why are not said.
    """
    for name, text in (("--by", author), ("--reason", words)):
        if not text.strip() or not text.isprintable() or len(text) > _MAX_WORDS:
            raise ContractError(f"rollback {name}: expected 1-{_MAX_WORDS} printable characters, found {text[:40]!r}")
    with locked(folder):
        stack = standing(read_chain(folder, key))
        if len(stack) < 2:
            raise ContractError(f"{asset_class}: no champion to go back to ({len(stack)} promotions stand); stop the service instead")
        down, back = stack[-1], stack[-2]
        evidence = {**back.decision.evidence, ROLLED_BACK: down.signature, "author": author}
        append(folder, key, replace(back.decision, reason=f"rolled back by {author}: {words}", evidence=evidence))
        return back


def read_key(registry: Path) -> bytes:
    """The key that decisions are signed with.

    Raises  ArtifactError when there is none, when it is too short, or when others may read it: then a signature says nothing.
    """
    path = registry / KEY
    try:
        with path.open("rb") as file:
            key, mode = file.read(), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise ArtifactError(f"{path}: no signing key, so that no decision can be verified; name the registry that decided") from error
    if mode & 0o077:
        raise ArtifactError(f"{path}: expected a key for its owner only, found mode {mode & 0o777:o}; chmod 600, and ask who has read it")
    if len(key) < MIN_KEY_BYTES:
        raise ArtifactError(f"{path}: expected a key of at least {MIN_KEY_BYTES} bytes, found {len(key)}; restore it")
    return key


def make_key(registry: Path) -> bytes:
    """The key of a registry, made once, for its owner only; whoever comes second reads the whole key of the first.

    Raises  ArtifactError as `read_key`.
    """
    path = registry / KEY
    if not path.exists():
        registry.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=registry)  # mode 600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
            with suppress(FileExistsError):
                os.link(name, path)
        finally:
            Path(name).unlink()
    return read_key(registry)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer a class."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
