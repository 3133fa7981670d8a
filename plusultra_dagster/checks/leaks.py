"""Blocking checks that no table knows its own future; each runs the station's own builder again on altered inputs."""

import zlib
from collections.abc import Callable, Mapping

import dagster as dg
import numpy as np
import polars as pl

from plusultra_core.artifacts import Artifact
from plusultra_core.errors import LookaheadError
from plusultra_core.market import MarketConfig
from plusultra_dagster.config import Data, Features, Regimes, Targets, Views, markets
from plusultra_dagster.partitions import across_context, partition_of, snapshot_by_asset_class
from plusultra_dagster.resources.analysts import with_analysts

NUM_CUTS = 24
NUM_STRETCHES = 4
NUM_PAST = 1_000
NUM_FUTURE = 128
MAX_SYMBOLS = 8
NUM_REBUILT = 3
NULL_SEED = 7
NUM_SHIFTS = 200
NULL_SE = 4.0
Frames = dict[str, pl.DataFrame]
Build = Callable[[Frames], pl.DataFrame]


def build_bars(market: MarketConfig) -> Build:
    """Bars from series, assets and corporate actions."""
    from plusultra_core.data.bars import build_bars as build
    from plusultra_core.data.tables import DataConfig

    cfg = Data().load(DataConfig).bars
    return lambda frames: build(frames["series"], frames["assets"], frames["corporate_actions"], market, cfg)


def build_features(market: MarketConfig) -> Build:
    """Features from bars, indicators and side tables."""
    from plusultra_core.features.build import FeaturesConfig, build

    cfg = Features().load(FeaturesConfig)
    return lambda frames: build(frames["bars"], frames["indicators"], frames["side_tables"], market, cfg)


def build_regimes(market: MarketConfig) -> Build:
    """Regimes from bars, features and assets."""
    from plusultra_core.regimes.build import RegimesConfig, build

    cfg = Regimes().load(RegimesConfig)
    return lambda frames: build(frames["bars"], frames["features"], frames["assets"], cfg)


def build_sigma(market: MarketConfig) -> Build:
    """The columns of the targets that look back: the volatility that scales labels, positions and the cost hurdle, and the primary side."""
    from plusultra_core.targets.build import TargetsConfig, build

    cfg = Targets().load(TargetsConfig)
    back = ("symbol", "ts_ns", "sigma", "meta_side")  # known when the bar is; the row's own known_ns is that of its labels
    return lambda frames: build(frames["bars"], cfg).select(back).hstack(frames["bars"].select("known_ns"))


def build_view(market: MarketConfig) -> Build:
    """The view of a class on itself and its context classes; `bars@<class>` are the bars of one."""
    from plusultra_core.views.build import ViewsConfig, build

    cfg, own = Views().load(ViewsConfig), market.asset_class

    def view(frames: Frames) -> pl.DataFrame:
        given: dict[str, Frames] = {name: {} for name in ("bars", "features", "side_tables")}
        for key, frame in frames.items():
            name, asset_class = key.split("@")
            given[name][asset_class] = frame
        return build(own, *given.values(), market, cfg).frame

    return view


def _named() -> tuple[str, ...]:
    """Symbols that a view shows by name."""
    from plusultra_core.views.build import ViewsConfig

    cfg = Views().load(ViewsConfig)
    return (*cfg.symbols, *cfg.benchmarks)


BUILDERS: Mapping[str, tuple[Callable[[MarketConfig], Build], tuple[str, ...]]] = {
    "bars": (build_bars, ("series", "assets", "corporate_actions")),
    "features": (build_features, ("bars", "indicators", "side_tables")),
    "regimes": (build_regimes, ("bars", "features", "assets")),
    "targets": (build_sigma, ("bars",)),
    "cross_asset_view": (build_view, ("bars", "features", "side_tables")),
}


def run_leak_check(kind: str, asset: str, key: object, frames: Frames) -> dg.AssetCheckResult:
    """One check as a result; a leak names its column and row, and one that found no row to look at has not passed."""
    from plusultra_core import leakage

    market = markets()[str(partition_of(key).asset_class)]
    judge = {"truncation": leakage.check_truncation, "poison": leakage.check_poison}[kind]
    stretches = leakage.Stretches(num=NUM_STRETCHES, num_past=NUM_PAST, num_future=NUM_FUTURE)
    keep = _named() if asset == "cross_asset_view" else ()
    given = (BUILDERS[asset][0](market), frames, NUM_CUTS, _seed(kind, key), MAX_SYMBOLS, keep)
    try:
        seen = judge(*given, stretches)
        # Where a row takes longer than a stretch, as a week of minutes does, all of the panel is looked at.
        seen = seen if seen.num_rows else judge(*given)
    except LookaheadError as error:
        return dg.AssetCheckResult(passed=False, metadata={"error": str(error)})
    found = {"cuts": len(seen.cuts_ns), "rows": seen.num_rows, "columns": seen.num_columns, "columns without a value": len(seen.blind)}
    metadata = {**found, "without a value": dg.MetadataValue.json(list(seen.blind))}
    return dg.AssetCheckResult(passed=seen.num_rows > 0, metadata=metadata)


def rebuilt_bars(key: object, frames: Frames) -> pl.DataFrame:
    """Bars of a few symbols, built of their series anew."""
    from plusultra_core.data.bars import finished, gathered
    from plusultra_core.data.tables import DataConfig

    if frames["series"].is_empty():
        return pl.DataFrame()
    some = {name: frame.filter(pl.col("symbol").is_in(_few(key, frames["series"]))) for name, frame in frames.items()}
    closed_ns = int(frames["series"]["ts_ns"].max())  # type: ignore[arg-type]
    market = markets()[str(partition_of(key).asset_class)]
    rows = gathered(some["series"], some["assets"], some["corporate_actions"], market, Data().load(DataConfig).bars, closed_ns)
    return finished(rows, market)


def rebuilt_features(key: object, frames: Frames) -> pl.DataFrame:
    """Features of a few symbols, built anew; what ranks all of a class is left out where these are not all."""
    from plusultra_core.features.build import ACROSS, FeaturesConfig, build, chosen_specs

    cfg, symbols = Features().load(FeaturesConfig), _few(key, frames["bars"])
    bars = frames["bars"].filter(pl.col("symbol").is_in(symbols))
    made = build(bars, frames["indicators"], frames["side_tables"], markets()[str(partition_of(key).asset_class)], cfg)
    across = [spec.name for spec in chosen_specs(cfg) if ACROSS in spec.tags] if bars.height < frames["bars"].height else []
    return made.drop(across)


def _beside(side_tables: pl.DataFrame) -> pl.DataFrame:
    """The side tables as the features read them."""
    from plusultra_core.features.build import FeaturesConfig

    return with_analysts(side_tables, Features().load(FeaturesConfig))


def _few(key: object, rows: pl.DataFrame) -> list[str]:
    symbols = rows["symbol"].unique().sort()
    return symbols.sample(min(NUM_REBUILT, len(symbols)), seed=_seed("stored", key)).to_list()


def bound(result: dg.AssetCheckResult, stored: pl.DataFrame, rebuilt: pl.DataFrame) -> dg.AssetCheckResult:
    """The same, failed where the table is not what its builder makes: it may have been taken over from an earlier one."""
    from plusultra_core import leakage

    if not result.passed or rebuilt.is_empty():
        return result
    try:
        num_rows = leakage.check_stored(stored, rebuilt)
    except LookaheadError as error:
        return dg.AssetCheckResult(passed=False, metadata={"error": str(error)})
    return dg.AssetCheckResult(passed=True, metadata={**result.metadata, "stored rows built anew": num_rows})


def _seed(kind: str, key: object) -> int:
    """The same for the same check of the same partition; others are cut elsewhere, so that a rare leak does not stay between the cuts."""
    return zlib.crc32(f"{kind} {partition_of(key).key}".encode())


_SAYS = {
    "truncation": "Rows up to a cut are the same when everything after the cut is gone.",
    "poison": "Rows up to a cut are the same when everything after the cut is noise.",
}


def _options(kind: str, asset: str, mapping: dg.PartitionMapping | None = None) -> dict[str, object]:
    names = BUILDERS[asset][1]
    return {
        "asset": asset,
        "name": kind,
        "blocking": True,
        "partitions_def": snapshot_by_asset_class,
        "description": _SAYS[kind],
        "additional_ins": {name: dg.AssetIn(name, partition_mapping=mapping) for name in names},
    }


def _of_bars(kind: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(**_options(kind, "bars"))
    def check(
        context: dg.AssetCheckExecutionContext,
        stored: pl.DataFrame,
        series: pl.DataFrame,
        assets: pl.DataFrame,
        corporate_actions: pl.DataFrame,
    ) -> dg.AssetCheckResult:
        frames = {"series": series, "assets": assets, "corporate_actions": corporate_actions}
        result = run_leak_check(kind, "bars", context.partition_key, frames)
        return bound(result, stored, rebuilt_bars(context.partition_key, frames))

    return check


def _of_features(kind: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(**_options(kind, "features"))
    def check(
        context: dg.AssetCheckExecutionContext,
        stored: pl.DataFrame,
        bars: pl.DataFrame,
        indicators: pl.DataFrame,
        side_tables: pl.DataFrame,
    ) -> dg.AssetCheckResult:
        frames = {"bars": bars, "indicators": indicators, "side_tables": _beside(side_tables)}
        result = run_leak_check(kind, "features", context.partition_key, frames)
        return bound(result, stored, rebuilt_features(context.partition_key, frames))

    return check


def _of_regimes(kind: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(**_options(kind, "regimes"))
    def check(
        context: dg.AssetCheckExecutionContext, bars: pl.DataFrame, features: pl.DataFrame, assets: pl.DataFrame
    ) -> dg.AssetCheckResult:
        return run_leak_check(kind, "regimes", context.partition_key, {"bars": bars, "features": features, "assets": assets})

    return check


def _of_view(kind: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(**_options(kind, "cross_asset_view", across_context({name: m.context_classes for name, m in markets().items()})))
    def check(
        context: dg.AssetCheckExecutionContext,
        bars: dict[str, pl.DataFrame],
        features: dict[str, pl.DataFrame],
        side_tables: dict[str, pl.DataFrame],
    ) -> dg.AssetCheckResult:
        own = str(partition_of(context.partition_key).asset_class)
        given = {"bars": bars, "features": features, "side_tables": side_tables}
        cells = [(name, str(partition_of(key).asset_class), frame) for name, frames in given.items() for key, frame in frames.items()]
        # The own class first: its bars are the times that are cut at.
        cells.sort(key=lambda cell: (cell[0] != "bars" or cell[1] != own, cell[:2]))
        flat = {f"{name}@{asset_class}": frame for name, asset_class, frame in cells}
        return run_leak_check(kind, "cross_asset_view", context.partition_key, flat)

    return check


def _of_targets(kind: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(**_options(kind, "targets"))
    def check(context: dg.AssetCheckExecutionContext, bars: pl.DataFrame) -> dg.AssetCheckResult:
        return run_leak_check(kind, "targets", context.partition_key, {"bars": bars})

    return check


@dg.asset_check(
    asset="windows",
    name="overlap",
    blocking=True,
    partitions_def=snapshot_by_asset_class,
    description="In every fold the inputs and labels of train, valid and test never meet, and the scaler is that of the train rows alone.",
)
def overlap(windows: Artifact) -> dg.AssetCheckResult:
    """From the first input to the end of the last label, on the class's grid; the scaler is fitted again."""
    from plusultra_core.separation import Intervals, check_overlap
    from plusultra_core.windows.panel import load_panel
    from plusultra_core.windows.scaling import check_scaler

    panel, samples = load_panel(windows.path), 0
    last_T = panel.label_end_NTK.max(axis=(0, 2))
    used_T = panel.anchor_NT.any(axis=0)
    try:
        for fold in panel.folds:
            spans = {}
            for name, (start, end) in {"train": fold.train, "valid": fold.valid, "test": fold.test}.items():
                t = start + used_T[start:end].nonzero()[0]
                spans[name] = Intervals(t - panel.lookback + 1, np.maximum(last_T[t], t))
            samples += check_overlap(spans)
            check_scaler(panel.x_NTF, panel.anchor_NT, fold.train, panel.lookback, fold.center_F, fold.scale_F)
    except LookaheadError as error:
        return dg.AssetCheckResult(passed=False, metadata={"error": str(error)})
    return dg.AssetCheckResult(passed=True, metadata={"folds": len(panel.folds), "samples": samples})


@dg.asset_check(
    asset="supervised_checkpoint",
    name="shuffled_null",
    blocking=True,
    partitions_def=snapshot_by_asset_class,
    description="The linear floor, fitted on the same folds to targets that were turned round in time, forecasts nothing out of sample.",
)
def shuffled_null(supervised_checkpoint: Artifact) -> dg.AssetCheckResult:
    """The pooled IC of the null lies within 4 standard errors of 0: a judge of every partition may rarely err."""
    from safetensors.numpy import load_file

    from plusultra_core.separation import check_shuffled_null

    null = load_file(supervised_checkpoint.path / "null.safetensors")
    try:
        seen = check_shuffled_null(null["prediction_TN"], null["target_TN"], num_shifts=NUM_SHIFTS, seed=NULL_SEED, num_se=NULL_SE)
    except LookaheadError as error:
        return dg.AssetCheckResult(passed=False, metadata={"error": str(error)})
    return dg.AssetCheckResult(passed=True, metadata={"ic": seen.ic, "standard_error": seen.se})


leaks = [
    *(_of_bars(kind) for kind in _SAYS),
    *(_of_features(kind) for kind in _SAYS),
    *(_of_regimes(kind) for kind in _SAYS),
    *(_of_view(kind) for kind in _SAYS),
    *(_of_targets(kind) for kind in _SAYS),
    overlap,
    shuffled_null,
]
