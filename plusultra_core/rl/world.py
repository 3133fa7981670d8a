"""The world of a policy: spans it may see, market rows of the frozen forecaster or windows for its own, the market of its account."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.errors import ArtifactError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.market import MarketConfig
from plusultra_core.models.bundle import Bundle, forecaster_config, load_forecaster
from plusultra_core.models.forecaster import Forecaster, build_forecaster
from plusultra_core.models.policies.build import AnyPolicy, build
from plusultra_core.models.policies.recipe import RecipeConfig
from plusultra_core.models.policy import Policy, market_rows, quantiles_of_rows
from plusultra_core.rl.curriculum.warmstart import Lessons
from plusultra_core.rl.env import World, sleeve
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.simulation.market import BARS, market_arrays
from plusultra_core.simulation.observation import OWN_STATE
from plusultra_core.simulation.sizing import raw_weight
from plusultra_core.windows.panel import Panel, anchors_in
from plusultra_core.windows.tensors import input_tensors


class Spans(NamedTuple):
    """Half-open ranges of grid bars. Both lie after all that the forecaster saw and before the locked window."""

    train: tuple[int, int]
    valid: tuple[int, int]


class Rows(NamedTuple):
    """What the policy sees of the market in the train span, and the quantiles of the frozen forecaster there."""

    rows_RF: Tensor
    quantiles_RKQ: Tensor
    levels: tuple[float, ...]
    n_R: Int64Array
    t_R: Int64Array


def spans_of(panel: Panel, valid_frac: float) -> Spans:
    """From the start of the first test span to the last one, less a purge of the longest horizon; its end validates.

    Raises  ArtifactError when the panel has a single fold, or nothing lies between.
    """
    if len(panel.folds) < 2:
        raise ArtifactError(f"policy: expected at least 2 folds, found {len(panel.folds)}; a policy trains between the first and the last")
    first = panel.folds[0].test[0]
    end = panel.folds[-1].test[0] - max(panel.horizons)
    split = end - max(2, round(valid_frac * (end - first)))
    if split - first < 3:
        raise ArtifactError(
            f"policy: only bars {first} to {end} lie between the first and the last test span; use fewer folds or more bars"
        )
    return Spans(train=(first, split), valid=(split, end))


def build_world(
    panel: Panel,
    teacher: Bundle,
    pretrained: Bundle | None,
    spans: Spans,
    simulation: SimulationConfig,
    market: MarketConfig,
    guard: GuardrailsConfig,
    limit: float,
    recipe: RecipeConfig,
    seed: int,
) -> tuple[World, AnyPolicy, Rows]:
    """Encode every anchor of the spans once, fit the scaler of market rows on the train span, and put up the market.

    A policy with a backbone of its own sees the number of a window where others see the row.
    """
    model = load_forecaster(teacher)
    num_assets, num_times = panel.tradable_NT.shape
    policy = build(recipe, begin_backbone(recipe, teacher, pretrained, seed), teacher.temperature, len(OWN_STATE), num_assets, seed)
    inputs = input_tensors(panel, teacher.scaler.center, teacher.scaler.scale, teacher.scaler.clip, "cpu")
    n_B, t_B = anchors_in(panel, (spans.train[0], spans.valid[1]))
    rows_BF = market_rows(model, teacher.temperature, inputs.gather, torch.from_numpy(n_B), torch.from_numpy(t_B))
    in_train_B = torch.from_numpy(t_B < spans.train[1])
    if not bool(in_train_B.any()):
        raise ArtifactError("policy: no usable window in its train span; build the windows again")
    windows = None if isinstance(policy, Policy) else policy.body.rows
    if windows is None:
        policy.fit_rows(rows_BF[in_train_B])
        seen_BF = policy.scale_rows(rows_BF)
    else:
        windows.attach(inputs.gather, n_B, t_B)
        policy.fit_rows(windows.whole()[in_train_B])
        seen_BF = torch.arange(len(n_B), dtype=torch.float32)[:, None]
    table_TNF = np.zeros((num_times, num_assets, seen_BF.shape[1]), dtype=np.float32)
    table_TNF[t_B, n_B] = seen_BF.numpy()
    present_TN: BoolArray = np.zeros((num_times, num_assets), dtype=np.bool_)
    present_TN[t_B, n_B] = True
    own, free = (simulation, guard) if recipe.is_book else sleeve(simulation, guard, limit)
    bars = {name: getattr(panel, f"{name}_NT") for name in BARS}
    arrays = market_arrays(panel.ts_ns_T, bars, panel.sigma_NT, panel.tradable_NT, market, simulation.adv_bars, simulation.fallback_sigma)
    world = World(arrays, panel.bar_ns, table_TNF, present_TN, own, market.costs, free)
    train = in_train_B.numpy()
    rows = Rows(seen_BF[in_train_B], quantiles_of_rows(model, rows_BF[in_train_B]), model.cfg.quantile_levels, n_B[train], t_B[train])
    return world, policy, rows


def begin_backbone(recipe: RecipeConfig, teacher: Bundle, pretrained: Bundle | None, seed: int) -> Forecaster:
    """The forecaster that a policy of this recipe takes its rows from or its backbone begins as.

    Raises  ArtifactError when a pretrained backbone is asked for and there is none, or it is none of the teacher's shape.
    """
    if recipe.kind == "mlp" or recipe.backbone.source == "supervised":
        return load_forecaster(teacher)
    model = build_forecaster(forecaster_config(teacher), teacher.shape, seed)
    if recipe.backbone.source == "none":
        return model.eval()
    if pretrained is None or pretrained.kind != "pretrained":
        raise ArtifactError("policy: backbone.source is pretrained, but the job names no pretrained bundle; name it or take another source")
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}
    found = {f"backbone.{name.removeprefix('backbone.')}": tensor for name, tensor in pretrained.tensors.items()}
    fill = {**weights, **found}
    if {k: v.shape for k, v in fill.items()} != {k: v.shape for k, v in model.state_dict().items()}:
        raise ArtifactError("policy: the pretrained backbone has another shape than the supervised one; train both with one config")
    model.load_state_dict(fill)
    return model.eval()


def lessons_of(rows: Rows, recipe: RecipeConfig, world: World, horizon_index: int, gain: float, limit: float) -> Lessons:
    """What the sizing rule does on the train rows; in a book, long only and within its gross limit, bar by bar."""
    part_R: Float64Array = raw_weight(rows.quantiles_RKQ.numpy()[:, horizon_index], rows.levels, gain)
    if not recipe.is_book:
        return Lessons(rows.rows_RF, torch.from_numpy(part_R.astype(np.float32)))
    bar_T, place_R = np.unique(rows.t_R, return_inverse=True)
    num_assets = world.present_TN.shape[1]
    share_TA: Float64Array = np.zeros((bar_T.size, num_assets))
    share_TA[place_R, rows.n_R] = np.maximum(part_R, 0.0) * limit / world.guard.max_gross
    share_TA *= np.minimum(1.0, 0.95 / np.maximum(share_TA.sum(axis=1, keepdims=True), 1e-12))
    seen = world.table_TNF[bar_T]
    return Lessons(torch.from_numpy(seen), torch.from_numpy(share_TA.astype(np.float32)), torch.from_numpy(world.present_TN[bar_T]))
