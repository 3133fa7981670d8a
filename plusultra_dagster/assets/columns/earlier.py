"""The features of an earlier snapshot that those of a later one go on from."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import dagster as dg
import polars as pl

from plusultra_core.artifacts import Artifact, open_artifact, publish
from plusultra_core.errors import ArtifactError
from plusultra_dagster.assets.earlier import earlier
from plusultra_dagster.assets.record import Record
from plusultra_dagster.partitions import Partition
from plusultra_dagster.places import places

if TYPE_CHECKING:
    from plusultra_core.features.extend import Previous
    from plusultra_core.features.recursions import State

_STATE = "state.safetensors"
_SHARED = 0.5
"""Part of a class's symbols that an earlier snapshot must have to be one of the same universe."""


class Earlier(NamedTuple):
    """Features of an earlier snapshot with all that they were made of."""

    partition: Partition
    previous: "Previous"


def keep_state(record: Record, state: "State") -> Artifact:
    """Publish where the recursions of a build stand, under the build's provenance."""
    from plusultra_core.features.recursions import state_bytes

    def fill(work: Path) -> None:
        (work / _STATE).write_bytes(state_bytes(state))

    return publish(_store(), record.provenance, fill, record.lineage)


def earlier_features(instance: dg.DagsterInstance, record: Record, bars: pl.DataFrame) -> Earlier | None:
    """The newest features of this class, of the same code, configs and market, whose tables lie in the lake as they were read.

    None where there are none, or where they are of other symbols.
    """
    from plusultra_core.features.extend import Previous
    from plusultra_core.features.recursions import read_state

    symbols = set(bars["symbol"].unique().to_list())
    for found in earlier(instance, record):
        try:
            state = read_state((open_artifact(_store() / found.provenance).path / _STATE).read_bytes())
        except ArtifactError:
            continue
        if len(symbols & set(state.symbols)) >= _SHARED * max(1, len(symbols)):
            return Earlier(found.partition, Previous(**found.inputs, features=found.table, state=state))
    return None


def _store() -> Path:
    return places().artifacts / "features_state"
