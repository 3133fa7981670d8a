"""From a recipe to a policy, and how fast each of its weights may learn."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from plusultra_core.models.forecaster import Forecaster
from plusultra_core.models.hybrid import HybridBackbone
from plusultra_core.models.policies.actors import BookPolicy, SlotPolicy
from plusultra_core.models.policies.body import Body, WindowRows
from plusultra_core.models.policies.recipe import RecipeConfig
from plusultra_core.models.policy import Policy, build_policy, num_market_columns

AnyPolicy = Policy | SlotPolicy | BookPolicy


def build(cfg: RecipeConfig, forecaster: Forecaster, temperature: Sequence[float], num_own: int, num_slots: int, seed: int) -> AnyPolicy:
    """A policy with fresh actor and critic; equal seeds, equal weights. The global generator is left as it was.

    A policy of kind `backbone` takes a copy of the forecaster with it; any other reads rows of the frozen one.
    """
    if cfg.is_plain:
        return build_policy(cfg.size, num_market_columns(forecaster), num_own, seed)
    rows = None
    if cfg.kind == "backbone":
        rows = WindowRows(copy.deepcopy(forecaster), temperature, with_heads=cfg.backbone.source == "supervised")
        for name, parameter in rows.named_parameters():
            parameter.requires_grad_(cfg.backbone.tuning != "frozen" and name.startswith("forecaster.backbone."))
    num_rows = num_market_columns(forecaster) if rows is None else rows.width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = Body(cfg, num_rows, num_own, rows)
        return BookPolicy(cfg, body, num_slots) if cfg.is_book else SlotPolicy(cfg, body)


def learning_rates(policy: nn.Module, cfg: RecipeConfig) -> dict[str, float]:
    """Part of the learning rate of every weight that learns, by name: 1, but in a backbone that is tuned discriminatively
    `depth_decay` to the power of the layers from the actor.

    Source  Howard, Ruder 2018, Universal Language Model Fine-tuning, section 3.2.
    """
    rows = None if isinstance(policy, Policy) or not isinstance(policy, SlotPolicy | BookPolicy) else policy.body.rows
    depth = {} if rows is None or cfg.backbone.tuning != "discriminative" else _depths(rows.forecaster)
    return {
        name: cfg.backbone.depth_decay ** depth.get(name.partition("forecaster.backbone.")[2], 0)
        for name, parameter in policy.named_parameters()
        if parameter.requires_grad
    }


def _depths(forecaster: Forecaster) -> dict[str, int]:
    """Layers between each weight of the backbone and the actor; the newest patch's skip ends where the last norm does."""
    backbone = forecaster.backbone
    if not isinstance(backbone, HybridBackbone):
        return {name: 1 for name, _ in backbone.named_parameters()}
    blocks = len(backbone.blocks)
    layers = [
        ("embed", "missing_D", "state"),
        ("stem",),
        ("ssm",),
        ("patch",),
        *[(f"blocks.{i}",) for i in range(blocks)],
        ("norm_out", "skip"),
    ]
    place = {part: len(layers) - i for i, parts in enumerate(layers) for part in parts}
    return {
        name: next(depth for part, depth in place.items() if name == part or name.startswith(f"{part}."))
        for name, _ in backbone.named_parameters()
    }
