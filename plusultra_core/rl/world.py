"""The world of a policy: spans it may see, market rows of the frozen forecaster, the market of its sleeve."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plusultra_core.arrays import BoolArray
from plusultra_core.errors import ArtifactError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.market import MarketConfig
from plusultra_core.models.bundle import Bundle, load_forecaster
from plusultra_core.models.policy import Policy, PolicyConfig, build_policy, market_rows, num_market_columns, quantiles_of_rows
from plusultra_core.rl.env import World, sleeve
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.simulation.market import BARS, market_arrays
from plusultra_core.simulation.observation import OWN_STATE
from plusultra_core.windows.panel import Panel, anchors_in
from plusultra_core.windows.tensors import input_tensors


class Spans(NamedTuple):
    """Half-open ranges of grid bars. Both lie after all that the forecaster saw and before the locked window."""

    train: tuple[int, int]
    valid: tuple[int, int]


class Rows(NamedTuple):
    """Market rows of the train span, scaled, and the quantiles in them."""

    rows_RF: Tensor
    quantiles_RKQ: Tensor
    levels: tuple[float, ...]


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
    spans: Spans,
    simulation: SimulationConfig,
    market: MarketConfig,
    guard: GuardrailsConfig,
    limit: float,
    policy_cfg: PolicyConfig,
    seed: int,
) -> tuple[World, Policy, Rows]:
    """Encode every anchor of the spans once, fit the scaler of market rows on the train span, and put up the market."""
    model = load_forecaster(teacher)
    policy = build_policy(policy_cfg, num_market_columns(model), len(OWN_STATE), seed)
    inputs = input_tensors(panel, teacher.scaler.center, teacher.scaler.scale, teacher.scaler.clip, "cpu")
    n_B, t_B = anchors_in(panel, (spans.train[0], spans.valid[1]))
    rows_BF = market_rows(model, teacher.temperature, inputs.gather, torch.from_numpy(n_B), torch.from_numpy(t_B))
    in_train_B = torch.from_numpy(t_B < spans.train[1])
    if not bool(in_train_B.any()):
        raise ArtifactError("policy: no usable window in its train span; build the windows again")
    policy.fit_rows(rows_BF[in_train_B])
    scaled_BF = policy.scale_rows(rows_BF)
    num_assets, num_times = panel.tradable_NT.shape
    table_TNF = np.zeros((num_times, num_assets, scaled_BF.shape[1]), dtype=np.float32)
    table_TNF[t_B, n_B] = scaled_BF.numpy()
    present_TN: BoolArray = np.zeros((num_times, num_assets), dtype=np.bool_)
    present_TN[t_B, n_B] = True
    own, free = sleeve(simulation, guard, limit)
    bars = {name: getattr(panel, f"{name}_NT") for name in BARS}
    arrays = market_arrays(panel.ts_ns_T, bars, panel.sigma_NT, panel.tradable_NT, market, simulation.adv_bars, simulation.fallback_sigma)
    world = World(arrays, panel.bar_ns, table_TNF, present_TN, own, market.costs, free)
    return world, policy, Rows(scaled_BF[in_train_B], quantiles_of_rows(model, rows_BF[in_train_B]), model.cfg.quantile_levels)
