"""Who may ask: API keys, kept as hashes, compared in constant time."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Literal

from plusultra_core.errors import ConfigError

Scope = Literal["predict", "metrics"]
_HEX = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """One key: its name in the journal, the sha256 of its text, what it opens."""

    name: str
    sha256: str
    scopes: tuple[Scope, ...]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name: expected 1-64 letters, digits, _ or -, found {self.name!r}")
        if not _HEX.fullmatch(self.sha256):
            raise ConfigError(f"sha256: expected 64 hex digits for key {self.name!r}; write the hash, never the key")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeysConfig:
    """The keys file: outside of the checkout, readable by the service alone."""

    keys: tuple[ApiKey, ...]

    def __post_init__(self) -> None:
        if len({key.name for key in self.keys}) != len(self.keys):
            raise ConfigError("keys: expected distinct names, found one twice")


def make_key(name: str, scopes: tuple[Scope, ...]) -> tuple[str, ApiKey]:
    """A new key, its text to hand over once, and the entry for the keys file."""
    text = secrets.token_urlsafe(32)
    return text, ApiKey(name=name, sha256=hashlib.sha256(text.encode()).hexdigest(), scopes=scopes)


def find_key(authorization: bytes | None, keys: KeysConfig) -> ApiKey | None:
    """The key of an `Authorization: Bearer ...` header, or None; every key is compared, whichever fits."""
    scheme, _, token = (authorization or b"").partition(b" ")
    digest = hashlib.sha256(token).digest()
    found = [key for key in keys.keys if hmac.compare_digest(digest, bytes.fromhex(key.sha256))]
    return found[0] if found and scheme.lower() == b"bearer" else None
