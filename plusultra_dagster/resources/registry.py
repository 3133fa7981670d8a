"""Who is champion, and the signed chain of the decisions that made it so. One folder a class."""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from plusultra_core.artifacts import Artifact


class Registry(dg.ConfigurableResource):
    """`<folder>/<asset_class>/decisions.jsonl`; the key lies in `<folder>/signing.key`, for its owner only."""

    folder: str
    artifacts: str

    def champion(self, asset_class: str) -> dict[str, Any] | None:
        """Scorecard of the champion of a class, None before the first promotion."""
        from plusultra_core.evaluation.registry.chain import read_chain, standing
        from plusultra_core.evaluation.registry.champions import scorecard_of

        folder = Path(self.folder) / asset_class
        stack = standing(read_chain(folder, self._key()))
        if not stack:
            return None
        artifact = scorecard_of(stack[-1], Path(self.artifacts))
        return dict(json.loads((artifact.path / "scorecard.json").read_text()))

    def decide(self, asset_class: str, challenger: Artifact, cfg: Any) -> dict[str, Any]:
        """Apply the written rule, sign the decision and put it at the chain's end: one write, so that the champion is never half changed.

        The same evidence is decided once, unless it was rolled back to since.
        """
        from plusultra_core.evaluation.promotion import decide
        from plusultra_core.evaluation.registry.chain import ROLLED_BACK, append, locked, read_records

        folder, key = Path(self.folder) / asset_class, self._key()
        card = json.loads((challenger.path / "scorecard.json").read_text())
        with locked(folder):
            records = read_records(folder, key)
            decision = decide(card, self.champion(asset_class), cfg.promotion, cfg.bootstrap)
            own = decision.evidence["challenger_sha256"]
            evidence = [(record["decision"]["evidence"], record) for record in records]
            before = [record for said, record in evidence if said["challenger_sha256"] == own and ROLLED_BACK not in said]
            return before[-1] if before else append(folder, key, decision)

    def _key(self) -> bytes:
        from plusultra_core.evaluation.registry.chain import make_key

        return make_key(Path(self.folder))
