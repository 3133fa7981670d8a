"""Who is champion, and the signed chain of the decisions that made it so. One folder a class."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from plusultra_core.artifacts import Artifact, canonical_json, open_artifact, write_atomic

_KEY_BYTES = 32


class Registry(dg.ConfigurableResource):
    """`<folder>/<asset_class>/champion.json` and `decisions.jsonl`; the key lies in `<folder>/signing.key`, for its owner only."""

    folder: str
    artifacts: str

    def champion(self, asset_class: str) -> dict[str, Any] | None:
        """Scorecard of the champion of a class, None before the first promotion."""
        path = Path(self.folder) / asset_class / "champion.json"
        if not path.exists():
            return None
        named = json.loads(path.read_text())
        artifact = open_artifact(Path(self.artifacts) / "scorecard" / named["scorecard"])
        return dict(json.loads((artifact.path / "scorecard.json").read_text()))

    def decide(self, asset_class: str, challenger: Artifact, policy: Artifact, cfg: Any) -> dict[str, Any]:
        """Apply the written rule, chain and sign the decision, and move the alias when it says so. The same evidence is decided once."""
        from plusultra_core.evaluation.promotion import decide, sign

        folder = Path(self.folder) / asset_class
        card = json.loads((challenger.path / "scorecard.json").read_text())
        with _locked(folder):
            chain = self._chain(folder)
            decision = decide(card, self.champion(asset_class), cfg.promotion, cfg.bootstrap)
            own = decision.evidence["challenger_sha256"]
            before = [record for record in chain if record["decision"]["evidence"]["challenger_sha256"] == own]
            if before:
                return before[-1]
            record = sign(decision, self._key(), chain[-1]["signature"] if chain else "")
            write_atomic(folder / "decisions.jsonl", b"".join(canonical_json(entry) for entry in [*chain, record]))
            if decision.promoted:
                alias = {"scorecard": challenger.path.name, "policy": policy.path.name, "policy_sha256": policy.sha256}
                write_atomic(folder / "champion.json", canonical_json(alias))
            return record

    def _chain(self, folder: Path) -> list[dict[str, Any]]:
        """Every decision of a class, each verified with the one before it."""
        from plusultra_core.evaluation.promotion import verify

        path = folder / "decisions.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        previous = ""
        for record in records:
            verify(record, self._key(), previous)
            previous = record["signature"]
        return records

    def _key(self) -> bytes:
        path = Path(self.folder) / "signing.key"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                return path.read_bytes()
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
        return path.read_bytes()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
