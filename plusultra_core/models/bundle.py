"""One bundle format for pretrained, supervised and policy weights: `model.safetensors` + canonical `bundle.json`.

A bundle says everything that serving needs: config, input shape, feature names, scaler, temperature, lineage.
Loading refuses whatever is not exactly what the JSON declares; nothing is patched on load.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from plusultra_core import artifacts, config
from plusultra_core.errors import ArtifactError, ConfigError
from plusultra_core.models.forecaster import Forecaster, ForecasterConfig, InputShape, build_forecaster

SCHEMA = 1
WEIGHTS = "model.safetensors"
HEADER = "bundle.json"
Kind = Literal["pretrained", "supervised", "policy"]
Module = TypeVar("Module", bound=nn.Module)
_KEYS = (
    "config",
    "features",
    "horizons",
    "kind",
    "lineage",
    "scaler",
    "schema",
    "shape",
    "symbols",
    "temperature",
    "tensors",
    "tokens",
    "weights",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaler:
    """What the inputs are scaled by; see `windows.scaling.apply_scale`."""

    center: tuple[float, ...]
    scale: tuple[float, ...]
    clip: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """Weights and all that is needed to use them.

    `config["forecaster"]` is a ForecasterConfig as JSON types; other keys belong to the bundle's maker.
    """

    kind: Kind
    config: dict[str, Any]
    shape: InputShape
    features: tuple[str, ...]
    tokens: tuple[str, ...]
    symbols: tuple[str, ...]
    horizons: tuple[int, ...]
    scaler: Scaler
    temperature: tuple[float, ...]
    """Divides the direction's scores, one per horizon."""
    lineage: dict[str, str]
    tensors: dict[str, Tensor]


def save_bundle(directory: Path, bundle: Bundle) -> None:
    """Write the two files of a bundle; equal bundles give equal bytes.

    Raises  ArtifactError when a weight is not finite or the parts do not fit each other.
    """
    from safetensors.torch import save

    _check_parts(directory, bundle)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in bundle.tensors.items()}
    _check_finite(directory, tensors)
    weights = save(tensors)
    header = {
        "schema": SCHEMA,
        "kind": bundle.kind,
        "config": bundle.config,
        "shape": config.to_dict(bundle.shape),
        "features": bundle.features,
        "tokens": bundle.tokens,
        "symbols": bundle.symbols,
        "horizons": bundle.horizons,
        "scaler": config.to_dict(bundle.scaler),
        "temperature": bundle.temperature,
        "lineage": bundle.lineage,
        "tensors": _declare(tensors),
        "weights": artifacts.sha256_bytes(weights),
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / WEIGHTS).write_bytes(weights)
    (directory / HEADER).write_bytes(artifacts.canonical_json(header))


def load_bundle(path: Path, verify: bool = True) -> Bundle:
    """The bundle in a directory.

    Raises  ArtifactError for another schema, missing or extra keys or tensors, another shape or dtype, weights that
    are not finite and, unless `verify` is False, another sha256.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    header = _read_header(path)
    try:
        content = (path / WEIGHTS).read_bytes()
        tensors = load(content)
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactError(f"{path / WEIGHTS}: cannot be read ({error}); train again") from error
    if verify and artifacts.sha256_bytes(content) != header["weights"]:
        raise ArtifactError(f"{path / WEIGHTS}: sha256 is not the one in {HEADER}; train again")
    declared = header["tensors"]
    found = _declare(tensors)
    for name in sorted(set(declared) | set(found)):
        if declared.get(name) != found.get(name):
            raise ArtifactError(f"{path}: tensor {name}: expected {declared.get(name)}, found {found.get(name)}; train again")
    _check_finite(path, tensors)
    try:
        bundle = Bundle(
            kind=header["kind"],
            config=dict(header["config"]),
            shape=config.parse(InputShape, header["shape"], f"{path / HEADER}: shape"),
            features=tuple(header["features"]),
            tokens=tuple(header["tokens"]),
            symbols=tuple(header["symbols"]),
            horizons=tuple(header["horizons"]),
            scaler=config.parse(Scaler, header["scaler"], f"{path / HEADER}: scaler"),
            temperature=tuple(float(value) for value in header["temperature"]),
            lineage=dict(header["lineage"]),
            tensors=tensors,
        )
    except (ConfigError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path / HEADER}: {error}; train again") from error
    _check_parts(path, bundle)
    return bundle


def load_forecaster(bundle: Bundle, prefix: str = "") -> Forecaster:
    """The forecaster of a supervised bundle, or of the tensors of a policy bundle whose names start with `prefix`; in eval mode.

    Raises  ArtifactError when the tensors are not exactly those of the config.
    """
    cfg = forecaster_config(bundle)
    tensors = {name[len(prefix) :]: tensor for name, tensor in bundle.tensors.items() if name.startswith(prefix)}
    return make_module(lambda: build_forecaster(cfg, bundle.shape), tensors).eval()


def forecaster_config(bundle: Bundle) -> ForecasterConfig:
    """The forecaster's config out of a bundle.

    Raises  ArtifactError when it is not one.
    """
    try:
        return config.parse(ForecasterConfig, bundle.config.get("forecaster"), "bundle.config.forecaster")
    except ConfigError as error:
        raise ArtifactError(f"{error}; train again") from error


def make_module(build: Callable[[], Module], tensors: dict[str, Tensor]) -> Module:
    """The module that `build` makes, filled. It is declared without memory first: a config that asks for other weights than there
    are, or for more than fits, is refused before it takes any.

    Raises  ArtifactError as `fill_module` does, and for sizes that no machine has.
    """
    try:
        with torch.device("meta"):
            declared = _declare(build().state_dict())
    except (RuntimeError, OverflowError) as error:
        raise ArtifactError(f"bundle.config: asks for weights of impossible sizes ({str(error).splitlines()[0]}); train again") from error
    _compare(declared, _declare(tensors))
    module = build()
    module.load_state_dict(tensors)
    return module


def fill_module(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put tensors into a module: every one of its parameters and buffers, and nothing else.

    Raises  ArtifactError naming the first tensor that is missing, extra, or of another shape or dtype.
    """
    _compare(_declare(module.state_dict()), _declare(tensors))
    module.load_state_dict(tensors)


def _compare(expected: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]]) -> None:
    for name in sorted(set(expected) | set(found)):
        if expected.get(name) != found.get(name):
            raise ArtifactError(f"tensor {name}: the config asks for {expected.get(name)}, found {found.get(name)}; train again")


def _declare(tensors: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    return {name: {"dtype": str(tensor.dtype), "shape": list(tensor.shape)} for name, tensor in tensors.items()}


def _check_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    for name in sorted(tensors):
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ArtifactError(f"{path}: tensor {name}: expected finite weights, found NaN or infinity; train again")


def _check_parts(path: Path, bundle: Bundle) -> None:
    shape = bundle.shape
    checks = (
        ("kind", bundle.kind in ("pretrained", "supervised", "policy")),
        ("features", len(bundle.features) == shape.num_features),
        ("tokens", len(bundle.tokens) == len(shape.num_states)),
        ("horizons", len(bundle.horizons) == shape.num_horizons),
        ("temperature", len(bundle.temperature) == shape.num_horizons and all(0 < value < float("inf") for value in bundle.temperature)),
        ("scaler.center", len(bundle.scaler.center) == shape.num_features),
        ("scaler.scale", len(bundle.scaler.scale) == shape.num_features and all(value > 0 for value in bundle.scaler.scale)),
        ("scaler.clip", bundle.scaler.clip > 0),
    )
    for name, holds in checks:
        if not holds:
            raise ArtifactError(f"{path}: {name} does not fit the bundle's shape {config.to_dict(shape)}; train again")


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads((path / HEADER).read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path / HEADER}: cannot be read ({error}); train again") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        found = header.get("schema") if isinstance(header, dict) else type(header).__name__
        raise ArtifactError(f"{path / HEADER}: expected schema {SCHEMA}, found {found}; train again or migrate it in a named step")
    if sorted(header) != sorted(_KEYS):
        raise ArtifactError(f"{path / HEADER}: keys {sorted(set(header) ^ set(_KEYS))} are missing or unknown; train again")
    return header
