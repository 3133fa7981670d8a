"""The panel: everything the learning stations read of an asset class, as arrays on one time grid.

It is published as a directory with `panel.safetensors` and, in the manifest, a JSON header; it is
read back without any dataframe library.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from plusultra_core import artifacts
from plusultra_core.arrays import BoolArray, Float32Array, Float64Array, Int8Array, Int32Array, Int64Array
from plusultra_core.errors import ArtifactError

SCHEMA = 2
FILE = "panel.safetensors"


@dataclass(frozen=True, slots=True)
class Fold:
    """One step of the walk-forward: half-open ranges of anchor times on the grid, and the scaler of its train part."""

    index: int
    train: tuple[int, int]
    valid: tuple[int, int]
    test: tuple[int, int]
    center_F: Float32Array
    scale_F: Float32Array


@dataclass(frozen=True, slots=True)
class Panel:
    """N assets, T grid times, F features, S state tokens, K horizons. Missing floats are NaN."""

    symbols: tuple[str, ...]
    currencies: tuple[str, ...]
    """Of each asset's price."""
    features: tuple[str, ...]
    tokens: tuple[str, ...]
    num_states: tuple[int, ...]
    horizons: tuple[int, ...]
    asset_class: str
    bar_ns: int
    periods_per_year: float
    lookback: int
    ts_ns_T: Int64Array
    """Grid times, UTC ns, strictly increasing: the union of the class's bar times."""
    known_ns_NT: Int64Array
    """When the inputs of this asset at this time were known; -1 where it has no bar."""
    x_NTF: Float32Array
    """Unscaled features and view columns; NaN where missing."""
    state_NTS: Int8Array
    y_NTK: Float32Array
    """Vol-scaled forward return; NaN where unknown."""
    ret_NTK: Float32Array
    """Log forward return, not scaled; NaN where unknown."""
    direction_NTK: Int8Array
    """0 down, 1 flat, 2 up; -1 missing."""
    label_end_NTK: Int32Array
    """Grid index at which the label is known; -1 missing."""
    weight_NT: Float32Array
    sigma_NT: Float64Array
    """Causal volatility of log returns per bar; NaN where missing."""
    tradable_NT: BoolArray
    anchor_NT: BoolArray
    """A window of `lookback` grid bars that ends here is usable as input."""
    open_NT: Float64Array
    high_NT: Float64Array
    low_NT: Float64Array
    close_NT: Float64Array
    volume_NT: Float64Array
    funding_NT: Float64Array
    """Funding paid by longs in (ts[t-1], ts[t]], fraction of notional; 0 where none."""
    half_spread_bps_NT: Float64Array
    """Half the spread quoted at the close of the bar; NaN where none was."""
    depth_NT: Float64Array
    """Units quoted at the best price at the close of the bar; NaN where none were."""
    fx_NT: Float64Array
    """Account currency for one unit of the asset's, as known at the close; NaN where no rate was known, and without a bar."""
    folds: tuple[Fold, ...]


_HEADER = ("symbols", "currencies", "features", "tokens", "num_states", "horizons", "asset_class", "bar_ns", "periods_per_year", "lookback")
_DTYPES: dict[str, tuple[Any, str]] = {
    "ts_ns_T": (np.int64, "T"),
    "known_ns_NT": (np.int64, "NT"),
    "x_NTF": (np.float32, "NTF"),
    "state_NTS": (np.int8, "NTS"),
    "y_NTK": (np.float32, "NTK"),
    "ret_NTK": (np.float32, "NTK"),
    "direction_NTK": (np.int8, "NTK"),
    "label_end_NTK": (np.int32, "NTK"),
    "weight_NT": (np.float32, "NT"),
    "sigma_NT": (np.float64, "NT"),
    "tradable_NT": (np.bool_, "NT"),
    "anchor_NT": (np.bool_, "NT"),
    "open_NT": (np.float64, "NT"),
    "high_NT": (np.float64, "NT"),
    "low_NT": (np.float64, "NT"),
    "close_NT": (np.float64, "NT"),
    "volume_NT": (np.float64, "NT"),
    "funding_NT": (np.float64, "NT"),
    "half_spread_bps_NT": (np.float64, "NT"),
    "depth_NT": (np.float64, "NT"),
    "fx_NT": (np.float64, "NT"),
}


def check_panel(panel: Panel) -> None:
    """Dtypes, shapes, states within their vocabulary and the order of time.

    Raises  ArtifactError naming the first array that is not as the header says.
    """
    size = {
        "N": len(panel.symbols),
        "T": len(panel.ts_ns_T),
        "F": len(panel.features),
        "S": len(panel.tokens),
        "K": len(panel.horizons),
    }
    for name, (dtype, axes) in _DTYPES.items():
        array: NDArray[Any] = getattr(panel, name)
        shape = tuple(size[axis] for axis in axes)
        if array.shape != shape or array.dtype != dtype:
            raise ArtifactError(f"panel.{name}: expected {np.dtype(dtype)} {shape}, found {array.dtype} {array.shape}; build it again")
    if size["T"] < 1 or np.any(np.diff(panel.ts_ns_T) <= 0):
        raise ArtifactError("panel.ts_ns_T: expected strictly increasing times; build it again")
    if len(panel.currencies) != size["N"]:
        raise ArtifactError(f"panel.currencies: expected {size['N']}, one an asset, found {len(panel.currencies)}; build it again")
    if len(panel.num_states) != size["S"]:
        raise ArtifactError(f"panel.num_states: expected {size['S']}, one a token, found {len(panel.num_states)}; build it again")
    for s, (token, most) in enumerate(zip(panel.tokens, panel.num_states, strict=True)):
        low, high = int(panel.state_NTS[..., s].min(initial=0)), int(panel.state_NTS[..., s].max(initial=0))
        if low < 0 or high >= most:
            raise ArtifactError(f"panel.state_NTS: expected {token} in [0, {most}), found {low} to {high}; build it again")
    for name in ("half_spread_bps_NT", "depth_NT", "fx_NT"):
        array = getattr(panel, name)
        if np.any(np.isinf(array) | (array < 0)) or (name == "fx_NT" and np.any(array == 0)):
            raise ArtifactError(f"panel.{name}: expected finite values, none negative, or NaN; build it again")
    for fold in panel.folds:
        for name in ("center_F", "scale_F"):
            array = getattr(fold, name)
            if array.shape != (size["F"],) or array.dtype != np.float32 or not np.isfinite(array).all():
                raise ArtifactError(f"panel.folds[{fold.index}].{name}: expected {size['F']} finite float32; build it again")


def anchors_in(panel: Panel, span: tuple[int, int]) -> tuple[Int64Array, Int64Array]:
    """Assets and times of the anchors inside a half-open span, by asset, then by time. Shapes  (B,), (B,)."""
    n_B, t_B = np.nonzero(panel.anchor_NT[:, span[0] : span[1]])
    return n_B.astype(np.int64), t_B.astype(np.int64) + span[0]


def publish_panel(panel: Panel, store: Path, key: str, manifest: Mapping[str, object]) -> artifacts.Artifact:
    """Write the panel as the artifact `store/key`; equal panels give equal bytes."""
    from safetensors.numpy import save

    check_panel(panel)
    header = {name: getattr(panel, name) for name in _HEADER}
    folds = [{"index": f.index, "train": f.train, "valid": f.valid, "test": f.test} for f in panel.folds]
    tensors: dict[str, NDArray[Any]] = {name: np.ascontiguousarray(getattr(panel, name)) for name in _DTYPES}
    for fold in panel.folds:
        tensors[f"fold_{fold.index}.center_F"] = fold.center_F
        tensors[f"fold_{fold.index}.scale_F"] = fold.scale_F

    def fill(directory: Path) -> None:
        (directory / FILE).write_bytes(save(tensors))

    return artifacts.publish(store, key, fill, {**manifest, "panel": {"schema": SCHEMA, **header, "folds": folds}})


def load_panel(path: Path, verify: bool = True) -> Panel:
    """The panel in a published directory.

    Raises  ArtifactError when it is missing, damaged, of another schema, or its arrays do not fit its header.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    header = artifacts.open_artifact(path, verify=verify).manifest.get("panel")
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ArtifactError(f"{path}: expected a panel of schema {SCHEMA}; build the windows again")
    try:
        tensors = load_file(path / FILE)
        folds = tuple(_fold(raw, tensors) for raw in header["folds"])
        fields = {name: tuple(value) if isinstance(value := header[name], list) else value for name in _HEADER}
        panel = Panel(**cast(Any, fields), **cast(Any, {name: tensors.pop(name) for name in _DTYPES}), folds=folds)
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: not a panel ({type(error).__name__}: {error}); build the windows again") from error
    if tensors:
        raise ArtifactError(f"{path}: array {sorted(tensors)[0]} is not part of a panel; build the windows again")
    check_panel(panel)
    return panel


def replace(panel: Panel, **arrays: object) -> Panel:
    """A panel with some fields replaced, checked."""
    new = dataclasses.replace(panel, **cast(Any, arrays))
    check_panel(new)
    return new


def _fold(raw: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Fold:
    index = int(raw["index"])
    spans = {name: (int(raw[name][0]), int(raw[name][1])) for name in ("train", "valid", "test")}
    return Fold(
        index=index,
        train=spans["train"],
        valid=spans["valid"],
        test=spans["test"],
        center_F=tensors.pop(f"fold_{index}.center_F"),
        scale_F=tensors.pop(f"fold_{index}.scale_F"),
    )
