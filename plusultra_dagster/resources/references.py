"""Artifacts by reference: core wrote the directory, the lake keeps which one belongs to a partition."""

import json
from pathlib import Path

import dagster as dg
from upath import UPath

from plusultra_core.artifacts import Artifact, canonical_json, open_artifact
from plusultra_core.errors import ArtifactError
from plusultra_dagster.resources.tables import PartitionFiles


class ReferenceFiles(PartitionFiles):
    """`<base>/<asset>/<asset_class>/<snapshot>.json` names key and sha256 of `<artifacts>/<asset>/<key>`."""

    extension = ".json"

    def __init__(self, base_path: UPath, artifacts: Path) -> None:
        super().__init__(base_path)
        self._artifacts = artifacts

    def dump_to_path(self, context: dg.OutputContext, obj: Artifact, path: UPath) -> None:
        """Store which artifact it is."""
        reference = {"store": obj.path.parent.name, "key": obj.path.name, "sha256": obj.sha256}
        self.write(path, canonical_json(reference))

    def load_from_path(self, context: dg.InputContext, path: UPath) -> Artifact:
        """The artifact, its files checked against its manifest and its manifest against the reference."""
        reference = json.loads(path.read_bytes())
        artifact = open_artifact(self._artifacts / reference["store"] / reference["key"])
        if artifact.sha256 != reference["sha256"]:
            raise ArtifactError(f"{artifact.path}: expected sha256 {reference['sha256']}, found {artifact.sha256}; make it again")
        return artifact


class ReferenceIO(dg.ConfigurableIOManagerFactory[ReferenceFiles]):
    """IO manager of everything that core publishes as a directory."""

    base: str
    artifacts: str

    def create_io_manager(self, context: dg.InitResourceContext) -> ReferenceFiles:
        """One per run."""
        return ReferenceFiles(UPath(self.base), Path(self.artifacts))
