"""A decision and its signed record, that cannot be edited unseen. Whoever serves reads it without the judges and their libraries."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from plusultra_core.artifacts import canonical_json
from plusultra_core.errors import ArtifactError, ConfigError

MIN_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of the rule; `found` is None where it could not be computed, which fails."""

    name: str
    found: float | None
    required: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict, its conditions, and digests of everything that it rests on."""

    promoted: bool
    strategy: str
    best_baseline: str | None
    reason: str
    checks: tuple[Check, ...]
    evidence: dict[str, str]


def sign(decision: Decision, key: bytes, previous: str) -> dict[str, Any]:
    """The decision as a JSON record, chained to the signature of the record before it ("" for the first), under HMAC-SHA256.

    Raises  ConfigError when the key is shorter than 16 bytes.
    """
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(f"signing key: expected at least {MIN_KEY_BYTES} bytes, found {len(key)}; make one with a random generator")
    body = {"decision": asdict(decision), "previous": previous}
    return {**body, "signature": hmac.new(key, canonical_json(body), hashlib.sha256).hexdigest()}


def verify(record: Mapping[str, Any], key: bytes, previous: str) -> Decision:
    """The decision of a record whose signature and place in the chain are right.

    Raises  ArtifactError when either is not.
    """
    try:
        body = {"decision": record["decision"], "previous": record["previous"]}
        signature = str(record["signature"])
        expected = hmac.new(key, canonical_json(body), hashlib.sha256).hexdigest()
        raw = dict(record["decision"])
        decision = Decision(**{**raw, "checks": tuple(Check(**check) for check in raw["checks"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"promotion record: not a signed decision ({error}); restore it") from error
    if not hmac.compare_digest(signature.encode(), expected.encode()):
        raise ArtifactError("promotion record: the signature does not fit; it was edited, or signed with another key")
    if record["previous"] != previous:
        raise ArtifactError("promotion record: it does not follow the record before it; one was removed or added")
    return decision
