"""One bundle format for pretrained, supervised and policy weights: `model.safetensors` + canonical `bundle.json`.

A bundle says everything that serving needs: config, input shape, feature names, scaler, temperature, lineage.
Loading refuses whatever is not exactly what the JSON declares; nothing is patched on load.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from plusultra_core import artifacts, config
from plusultra_core.errors import ArtifactError, ConfigError
from plusultra_core.models.forecaster import Forecaster, ForecasterConfig, InputShape, build_forecaster
from plusultra_core.models.hybrid import HybridConfig, most_floats

SCHEMA = 1
WEIGHTS = "model.safetensors"
HEADER = "bundle.json"
HEADER_BYTES = 4 << 20
"""Most of a header: it names features, symbols and tensors. Everything that it holds is read before anything of it is known."""
LONGEST = {"features": 1 << 16, "tokens": 256, "symbols": 1 << 17, "horizons": 256, "temperature": 256}
"""Most entries of its lists."""
MOST_BARS = 1 << 20
"""Of a window."""
MOST_PAIRS = 1 << 26
"""Of places that attention compares, in all blocks: what is kept for each pair stands in no tensor of the file."""
MOST_FLOATS = 1 << 24
"""Of what one layer holds of one window."""
_SENTENCE = 300
Kind = Literal["pretrained", "supervised", "policy"]
Module = TypeVar("Module", bound=nn.Module)
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)
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
    if not isinstance(declared, dict):
        raise ArtifactError(f"{path / HEADER}: tensors: expected a mapping, found {type(declared).__name__}; train again")
    found = _declare(tensors)
    for name in sorted(set(declared) | set(found)):
        if declared.get(name) != found.get(name):
            told = str(declared.get(name))[:_SENTENCE]
            raise ArtifactError(f"{path}: tensor {name[:_SENTENCE]}: expected {told}, found {found.get(name)}; train again")
    _check_finite(path, tensors)
    _check_lists(path, header)
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
    except (ConfigError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"{path / HEADER}: {str(error)[:_SENTENCE]}; train again") from error
    _check_parts(path, bundle)
    return bundle


def load_forecaster(bundle: Bundle, prefix: str = "") -> Forecaster:
    """The forecaster of a supervised bundle, or of the tensors of a policy bundle whose names start with `prefix`; in eval mode.

    Raises  ArtifactError when the tensors are not exactly those of the config.
    """
    cfg = forecaster_config(bundle)
    tensors = {name[len(prefix) :]: tensor for name, tensor in bundle.tensors.items() if name.startswith(prefix)}
    return make_module(lambda: build_forecaster(cfg, bundle.shape), tensors, num_layers(cfg)).eval()


def forecaster_config(bundle: Bundle) -> ForecasterConfig:
    """The forecaster's config out of a bundle.

    Raises  ArtifactError when it is not one.
    """
    try:
        cfg = config.parse(ForecasterConfig, bundle.config.get("forecaster"), "bundle.config.forecaster")
    except (ConfigError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"{str(error)[:_SENTENCE]}; train again") from error
    if cfg.hybrid is not None:
        _check_size(cfg.hybrid, bundle.shape.lookback)
    return cfg


def _check_size(cfg: HybridConfig, lookback: int) -> None:
    """What stands in no tensor of the file but is held while a window is read.

    Raises  ArtifactError for more than any machine should be asked for.
    """
    patches = math.ceil(lookback / cfg.patch_bars)
    if cfg.num_blocks * patches * patches > MOST_PAIRS:
        raise ArtifactError(f"bundle.config.forecaster: attention may compare {MOST_PAIRS} pairs of patches, found more; train again")
    if cfg.ssm_states and lookback * max(lookback, cfg.width * cfg.ssm_states) > MOST_PAIRS:
        raise ArtifactError(f"bundle.config.forecaster: a state space may hold {MOST_PAIRS} numbers, found more; use a shorter lookback")
    if most_floats(cfg, lookback) > MOST_FLOATS:
        raise ArtifactError(f"bundle.config.forecaster: a layer may hold {MOST_FLOATS} numbers of a window, found more; train again")


def num_layers(cfg: ForecasterConfig) -> int:
    """Layers that a config asks for by number; each of them has weights of its own."""
    return 0 if cfg.hybrid is None else cfg.hybrid.num_blocks + len(cfg.hybrid.dilations)


def make_module(build: Callable[[], Module], tensors: dict[str, Tensor], num_layers: int) -> Module:
    """The module that `build` makes, filled. It is declared without memory first: a config that asks for other weights than there
    are, or for more than fits, is refused before it takes any; and before that, one that asks for more layers than there are tensors.

    Raises  ArtifactError as `fill_module` does, and for sizes that no machine has.
    """
    if num_layers > len(tensors):
        raise ArtifactError(f"bundle.config: asks for more layers than the {len(tensors)} tensors can fill; train again")
    try:
        with torch.device("meta"):
            declared = _declare(build().state_dict())
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        told = str(error).split("\n")[0][:_SENTENCE]
        raise ArtifactError(f"bundle.config: asks for weights of impossible sizes ({told}); train again") from error
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
        if tensors[name].dtype not in _DTYPES:
            raise ArtifactError(f"{path}: tensor {name}: expected plain numbers, found {tensors[name].dtype}; train again")
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
        ("lookback", 1 <= shape.lookback <= MOST_BARS),
        ("num_states", all(1 <= size < 1 << 31 for size in shape.num_states)),
        ("scaler.center", len(bundle.scaler.center) == shape.num_features and all(map(math.isfinite, bundle.scaler.center))),
        ("scaler.scale", len(bundle.scaler.scale) == shape.num_features and all(0 < value < math.inf for value in bundle.scaler.scale)),
        ("scaler.clip", 0 < bundle.scaler.clip < math.inf),
    )
    for name, holds in checks:
        if not holds:
            told = str(config.to_dict(shape))[:_SENTENCE]
            raise ArtifactError(f"{path}: {name} does not fit the bundle's shape {told}; train again")


def _check_lists(path: Path, header: dict[str, Any]) -> None:
    """Raises  ArtifactError for lists that are none, too long, or of something else."""
    for name, most in LONGEST.items():
        values = header[name]
        kinds: Any = int if name == "horizons" else (int, float) if name == "temperature" else str
        if not isinstance(values, list) or len(values) > most or any(not isinstance(v, kinds) or isinstance(v, bool) for v in values):
            raise ArtifactError(f"{path / HEADER}: {name}: expected a list of at most {most} plain values; train again")
    if any(not 1 <= horizon <= MOST_BARS for horizon in header["horizons"]):
        raise ArtifactError(f"{path / HEADER}: horizons: expected bars in [1, {MOST_BARS}]; train again")


def _read_header(path: Path) -> dict[str, Any]:
    try:
        size = (path / HEADER).stat().st_size
        if size > HEADER_BYTES:
            raise ArtifactError(f"{path / HEADER}: expected at most {HEADER_BYTES} bytes, found {size}; train again")
        header = json.loads((path / HEADER).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path / HEADER}: cannot be read ({error}); train again") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        found = str(header.get("schema"))[:_SENTENCE] if isinstance(header, dict) else type(header).__name__
        raise ArtifactError(f"{path / HEADER}: expected schema {SCHEMA}, found {found}; train again or migrate it in a named step")
    if sorted(header) != sorted(_KEYS):
        told = str(sorted(set(header) ^ set(_KEYS)))[:_SENTENCE]
        raise ArtifactError(f"{path / HEADER}: keys {told} are missing or unknown; train again")
    return header
