"""A bundle is somebody else's file: whatever stands in it, the doors refuse it in one sentence, before it takes time or memory."""

import copy
import json
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plusultra_core import config
from plusultra_core.errors import ArtifactError
from plusultra_core.inference.decide import load_policy
from plusultra_core.models.bundle import (
    HEADER,
    HEADER_BYTES,
    WEIGHTS,
    Bundle,
    Scaler,
    forecaster_config,
    load_bundle,
    load_forecaster,
    save_bundle,
)
from plusultra_core.models.forecaster import ForecasterConfig, InputShape, build_forecaster, windows_at_once
from plusultra_core.models.hybrid import HybridConfig
from plusultra_core.models.policies.build import build
from plusultra_core.models.policies.recipe import BackboneConfig, MemoryConfig, RecipeConfig
from plusultra_core.models.policy import ACTOR, FORECASTER, PolicyConfig
from plusultra_core.simulation.observation import OWN_STATE

SHAPE = InputShape(num_features=3, lookback=8, num_states=(4,), num_horizons=2)
HYBRID = HybridConfig(
    width=8, num_blocks=1, num_heads=2, feedforward_factor=2, patch_bars=2, kernel_bars=2, dilations=(1,), ssm_states=2,
    state_embedding=True, dropout=0.1,
)  # fmt: skip
CFG = ForecasterConfig(kind="hybrid", hybrid=HYBRID, linear=None, quantile_levels=(0.1, 0.5, 0.9), num_classes=3)
RECIPE = RecipeConfig(
    kind="backbone",
    head="categorical",
    size=PolicyConfig(width=4, num_layers=1, init_std=0.5),
    grid=(-1.0, 0.0, 1.0),
    memory=MemoryConfig(kind="window", bars=2, width=4),
    norm_obs="running",
    backbone=BackboneConfig(source="supervised", tuning="full", depth_decay=0.5),
)
_KB = 300_000


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy with a backbone and the forecaster beside it: every number that a bundle may hold."""
    forecaster = build_forecaster(CFG, SHAPE, 3)
    policy = build(RECIPE, forecaster, (1.0, 1.25), len(OWN_STATE), 3, 0)
    tensors = {FORECASTER + name: tensor for name, tensor in forecaster.state_dict().items()}
    tensors |= {ACTOR + name: tensor for name, tensor in policy.state_dict().items()}
    bundle = Bundle(
        kind="policy",
        config={"forecaster": config.to_dict(CFG), "policy": config.to_dict(RECIPE)},
        shape=SHAPE,
        features=("a", "b", "c"),
        tokens=("volatility_state",),
        symbols=("A", "B", "C"),
        horizons=(1, 5),
        scaler=Scaler(center=(0.0, 1.0, -1.0), scale=(1.0, 2.0, 0.5), clip=5.0),
        temperature=(1.0, 1.25),
        lineage={"windows": "ab" * 32},
        tensors=tensors,
    )
    found = tmp_path_factory.mktemp("untrusted") / "bundle"
    save_bundle(found, bundle)
    return found


def doors(path: Path) -> None:
    """Every way in."""
    bundle = load_bundle(path)
    load_forecaster(bundle, FORECASTER)
    load_policy(bundle, 3)


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all values of a JSON tree, but of what is said of tensors."""
    if at:
        yield at
    if at != ("tensors",) and isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*at, key))


def changed(header: dict[str, Any], at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    found: Any = copy.deepcopy(header)
    inner = found
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return dict(found)


def refused(path: Path, tmp_path: Path, content: bytes, match: str = "") -> None:
    """The doors refuse these bytes as a header in one short sentence, in little memory."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes())
    (tmp_path / HEADER).write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArtifactError, match=match) as told:
        doors(tmp_path)
    assert len(str(told.value)) < 1_500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _KB, "kilobytes"


def test_what_was_saved_goes_through_every_door(path: Path) -> None:
    doors(path)


FORECAST, POLICY = ("config", "forecaster"), ("config", "policy")


@pytest.mark.parametrize(
    ("at", "value", "match"),
    [
        ((*FORECAST, "hybrid", "num_blocks"), 10**9, "more layers than the|pairs of patches"),
        ((*FORECAST, "hybrid", "num_blocks"), 10**400, "."),
        ((*FORECAST, "hybrid", "dilations"), [1] * 1_000_000, "more layers than the"),
        ((*FORECAST, "hybrid", "patch_bars"), 10**12, "a layer may hold"),
        ((*FORECAST, "hybrid", "feedforward_factor"), 10**30, "a layer may hold"),
        ((*FORECAST, "num_classes"), 10**15, "the config asks for|impossible sizes"),
        ((*FORECAST, "quantile_levels"), [0.5] * 500_000, "quantile_levels"),
        ((*POLICY, "size", "num_layers"), 10**9, "more layers than the"),
        ((*POLICY, "memory", "bars"), 10**12, "the config asks for|impossible sizes"),
        ((*POLICY, "grid"), [0.0] * 500_000, "grid"),
        (("shape", "lookback"), 10**7, "lookback"),
        (("shape", "lookback"), 1 << 20, "pairs of patches"),
        (("shape", "num_states"), [10, -6], "tokens|num_states"),
        (("shape", "num_states"), [10**40], "num_states"),
        (("horizons",), [1, 10**30], "horizons"),
        (("temperature",), [1.0] * 400_000, "temperature"),
        (("scaler", "center"), [0.0, float("inf"), 0.0], "scaler.center"),
        (("scaler", "clip"), float("inf"), "scaler.clip"),
        (("tensors",), [1, 2], "expected a mapping"),
        (("features",), "abc", "features"),
    ],
)
def test_numbers_that_would_take_time_or_memory_are_refused(path: Path, tmp_path: Path, at: Any, value: Any, match: str) -> None:
    header = json.loads((path / HEADER).read_bytes())
    refused(path, tmp_path, json.dumps(changed(header, at, value)).encode(), match)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"schema":' + b"[" * 990 + b"]" * 990 + b"}", b"[" + b"[]," * 2_000_000 + b"1]"])
def test_json_that_is_deep_or_large_is_refused(path: Path, tmp_path: Path, content: bytes) -> None:
    refused(path, tmp_path, content, "at most 4194304 bytes" if len(content) > HEADER_BYTES else "cannot be read|expected schema")


def sized(lookback: int = 8, **changes: int) -> Bundle:
    """A bundle that says of itself how large it is; its tensors are not looked at."""
    cfg = replace(CFG, hybrid=replace(HYBRID, **changes))
    return Bundle(
        kind="supervised", config={"forecaster": config.to_dict(cfg)}, shape=replace(SHAPE, lookback=lookback), features=("a", "b", "c"),
        tokens=("volatility_state",), symbols=("A",), horizons=(1, 5), scaler=Scaler(center=(0.0,) * 3, scale=(1.0,) * 3, clip=5.0),
        temperature=(1.0, 1.0), lineage={}, tensors={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lookback", "changes", "match"),
    [
        (100_000, {"patch_bars": 100_000}, "a state space may hold"),
        (9_000, {"patch_bars": 16}, "a state space may hold"),
        (8, {"ssm_states": 10**7}, "a state space may hold"),
        (8, {"patch_bars": 1 << 22}, "a layer may hold"),
        (8, {"feedforward_factor": 1 << 22}, "a layer may hold"),
        (4_096, {"patch_bars": 1, "ssm_states": 0, "width": 64, "num_heads": 32}, "a layer may hold"),
    ],
)
def test_layers_that_hold_more_of_a_window_than_any_file_says_are_refused(lookback: int, changes: Any, match: str) -> None:
    with pytest.raises(ArtifactError, match=match):
        forecaster_config(sized(lookback, **changes))


def test_windows_are_read_so_many_at_once_as_fit() -> None:
    assert windows_at_once(CFG, SHAPE) == 2_048
    assert windows_at_once(replace(CFG, hybrid=replace(HYBRID, patch_bars=1 << 20)), SHAPE) == 32
    assert windows_at_once(CFG, replace(SHAPE, num_features=1 << 30)) == 1


def test_tensors_of_other_kinds_of_numbers_are_refused(path: Path, tmp_path: Path) -> None:
    from safetensors.torch import save

    header = json.loads((path / HEADER).read_bytes())
    name = next(iter(header["tensors"]))
    tensors = load_bundle(path).tensors | {name: torch.zeros(2, dtype=torch.float8_e4m3fn)}
    header["tensors"][name] = {"dtype": "torch.float8_e4m3fn", "shape": [2]}
    (tmp_path / WEIGHTS).write_bytes(save(tensors))
    (tmp_path / HEADER).write_text(json.dumps(header))
    with pytest.raises(ArtifactError, match="plain numbers"):
        load_bundle(tmp_path, verify=False)


HOSTILE = st.one_of(
    st.sampled_from(
        [0, -1, 2**31, 2**63, 10**9, 10**18, 10**400, 1e-300, 1e300, float("nan"), float("inf"), True, None, "", "hybrid", {}, []]
    ),
    st.integers(-5, 10**6),
    st.floats(),
    st.lists(st.integers(-3, 10**12), max_size=5),
    st.sampled_from([[1] * 50_000, [0.5] * 50_000, [[]] * 50_000, {"a": {"b": [1]}}]),
)


@settings(max_examples=120, deadline=5_000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_in_a_header_it_is_a_bundle_or_one_error(path: Path, tmp_path: Path, data: st.DataObject) -> None:
    header = json.loads((path / HEADER).read_bytes())
    for _ in range(data.draw(st.integers(1, 2))):
        header = changed(header, data.draw(st.sampled_from(list(leaves(header)))), data.draw(HOSTILE))
    (tmp_path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes())
    (tmp_path / HEADER).write_text(json.dumps(header))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        doors(tmp_path)
    except ArtifactError as error:
        assert len(str(error)) < 1_500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _KB, "kilobytes"
