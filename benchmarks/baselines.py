"""Every strategy over the last walk-forward folds of the real dumps, policies trained with several seeds: the table in docs/baselines.md.

    PLUSULTRA_HOME=DIR python benchmarks/baselines.py [--seeds 5] [--folds 2] [--first 2] [--processes 2] [--write] [CLASS|SNAPSHOT ...]

It starts from a home in which `plusultra run DUMP --asset-class CLASS --profile base` has finished for the partitions that are
named (all that have forecasts unless some are). For each of the last folds it cuts windows and forecasts behind the test span of that
fold, trains a policy for each seed in a child process on what lies before that span, and runs every strategy over the span by the
same job `trace` that the graph runs. What is done already is not done again: an equal job has an equal key. Results are kept beside
the runs, in `data/baselines` of the home; `--write` makes the page from all that are there.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plusultra_core import artifacts, config
from plusultra_core.evaluation.backtests import COSTS, WALK_FORWARD, net_pnl, opening_equity
from plusultra_core.evaluation.scorecard import EvaluationConfig
from plusultra_core.inference.trace import InferenceConfig
from plusultra_core.job import Job, write_job
from plusultra_core.market import MarketConfig
from plusultra_core.rl.jobs import TEACHER
from plusultra_core.rl.train import RLConfig
from plusultra_core.windows.panel import Panel, load_panel, publish_panel, replace
from plusultra_dagster.commands.plan import reference_of
from plusultra_dagster.config import digest_of
from plusultra_dagster.partitions import Partition, partition_of
from plusultra_dagster.places import CONFIGS, Places, places, profile
from plusultra_dagster.provenance import code_version

ROOT = Path(__file__).resolve().parents[1]
SEEDED = ("random", "policy")
FIRST_FOLD = 2
"""The policy of a fold trains between the first test span and its own: below fold 2 that is a single span. `--first` says otherwise."""


def settings(cell: Partition) -> dict[str, Any]:
    """Configs of the jobs, as the stations read them."""
    found: dict[str, Any] = {"market": config.read(CONFIGS / "markets" / f"{cell.asset_class}.yaml")}
    for station in ("rl", "inference", "simulation", "guardrails"):
        found[station] = config.read(CONFIGS / profile() / f"{station}.yaml")
    return found


def cells(at: Places, names: list[str]) -> list[Partition]:
    """The partitions that are named, or all that have forecasts."""
    if names:
        return [partition_of(name) for name in names]
    paths = sorted((at.lake / "forecasts").glob("*/*.json"))
    return [Partition(path.stem, path.parent.name) for path in paths]


def cut(panel: Panel, fold: int) -> Panel:
    """The panel as it was when the test span of a fold had passed: no later bar, no label that ends later, no later fold."""
    end = panel.folds[fold].test[1]
    unknown = panel.label_end_NTK[:, :end] >= end
    arrays = {}
    for field in dataclasses.fields(panel):
        axes, value = field.name.rpartition("_")[2], getattr(panel, field.name)
        if isinstance(value, np.ndarray) and "T" in axes:
            arrays[field.name] = np.ascontiguousarray(np.take(value, np.arange(end), axis=axes.index("T")))
    for name, none in (("y_NTK", np.nan), ("ret_NTK", np.nan), ("direction_NTK", -1), ("label_end_NTK", -1)):
        arrays[name] = np.where(unknown, none, arrays[name]).astype(arrays[name].dtype)
    return replace(panel, **arrays, folds=panel.folds[: fold + 1])


def inputs(at: Places, cell: Partition, fold: int, store: Path) -> dict[str, artifacts.Artifact]:
    """Windows and forecasts cut behind a fold, and the teacher of the policies beside them, as artifacts that belong together."""
    found = {name: reference_of(at, name, cell) for name in ("windows", "supervised_checkpoint", "forecasts")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise SystemExit(f"{cell.key}: no {missing[0]} in {at.data}; run `plusultra run DUMP --asset-class {cell.asset_class}` first")
    sources = {name: artifacts.open_artifact(path) for name, path in found.items() if path is not None}
    panel = cut(load_panel(sources["windows"].path), fold)
    key = digest_of(
        {"fold": fold, **{name: source.sha256 for name, source in sources.items()}, "code": code_version(("windows",), __file__)}
    )
    windows = publish_panel(panel, store, f"windows-{key}", {"partition": cell.key})

    def teacher(folder: Path) -> None:
        for source in sorted((sources["supervised_checkpoint"].path / TEACHER).iterdir()):
            (folder / TEACHER).mkdir(parents=True, exist_ok=True)
            (folder / TEACHER / source.name).write_bytes(source.read_bytes())

    def forecasts(folder: Path) -> None:
        table = pl.read_parquet(sources["forecasts"].path / "forecasts.parquet")
        table.filter(pl.col("ts_ns") <= int(panel.ts_ns_T[-1])).write_parquet(folder / "forecasts.parquet")

    lineage = {"lineage": {"windows": windows.sha256}}
    return {
        "windows": windows,
        "supervised": artifacts.publish(store, f"supervised-{key}", teacher, lineage),
        "forecasts": artifacts.publish(store, f"forecasts-{key}", forecasts, lineage),
    }


def spent(store: Path, key: str) -> Path:
    """Where the CPU-seconds of a job are kept: a run that goes on where another stopped tells the whole."""
    return store.parent / "cpu" / key


def child(station: str, task: str, sections: dict[str, Any], given: dict[str, artifacts.Artifact], store: Path) -> artifacts.Artifact:
    """One job in a process of its own, as the graph runs it; nothing where an equal one has been done."""
    versions = {name: artifact.sha256 for name, artifact in given.items()}
    key = f"{task}-{digest_of({'config': sections, 'inputs': versions, 'code': code_version((station,), __file__)})}"
    if not (store / key).exists():
        work = store.parent / "work" / key
        job = Job(task, key, sections, {name: artifact.path for name, artifact in given.items()}, store, work, {})
        path = work.with_suffix(".json")
        write_job(path, job)
        with work.with_suffix(".log").open("w") as log:
            command = [sys.executable, "-m", f"plusultra_core.{station}", str(path)]
            running = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
            _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        if running.returncode:
            raise SystemExit(f"{key}: {work.with_suffix('.log').read_text()[-2_000:]}")
        artifacts.write_atomic(spent(store, key), f"{usage.ru_utime + usage.ru_stime:.1f}".encode())
        path.unlink()
    return artifacts.open_artifact(store / key)


def one_run(base: dict[str, Any], given: dict[str, artifacts.Artifact], store: Path, seed: int) -> tuple[dict[str, Any], Path]:
    """Train the policy of a seed and run every strategy over the last test span of the windows; metrics of the policy, the trace."""
    shared = {name: base[name] for name in ("simulation", "guardrails", "market")}
    rl = {"rl": {**base["rl"], "seed": seed, "num_seeds": 1}, **shared}
    policy = child("rl", "policy", rl, {name: given[name] for name in ("windows", "supervised")}, store)
    inference = {"inference": {**base["inference"], "seed": seed}, **shared}
    trace = child("inference", "trace", inference, {**{name: given[name] for name in ("windows", "forecasts")}, "policy": policy}, store)
    cpu_s = sum(float(spent(store, artifact.path.name).read_text()) for artifact in (policy, trace))
    return {**json.loads((policy.path / "metrics.json").read_text()), "cpu_s": cpu_s}, trace.path


def series(trace: Path) -> dict[str, dict[str, Any]]:
    """Returns per bar after and before costs, turnover one way and costs, of every strategy on the last span of a trace."""
    account = (
        pl.read_parquet(trace / "account.parquet").filter(~pl.col("strategy").str.ends_with(f"_{WALK_FORWARD}")).sort("strategy", "ts_ns")
    )
    moved = account.filter(pl.col("ts_ns") > pl.col("ts_ns").min().over("strategy"))  # the first row states the capital
    opening, paid = opening_equity(), pl.sum_horizontal(COSTS)
    columns = {
        "ret": net_pnl() / opening,
        "gross": pl.col("price_pnl") / opening,
        "paid": paid / opening,
        "turnover": pl.col("turnover") / 2,
    }
    rows = moved.select("strategy", "ts_ns", **columns)
    return {str(name): {column: part[column].to_list() for column in ("ts_ns", *columns)} for (name,), part in rows.group_by("strategy")}


def measure(at: Places, cell: Partition, seeds: int, folds: int, first: int, processes: int) -> dict[str, Any]:
    """All runs of a partition: by fold and seed what each strategy earned, and what became of each policy."""
    store, base = at.data / "baselines" / str(cell.asset_class), settings(cell)
    config.parse(RLConfig, base["rl"], "rl"), config.parse(InferenceConfig, base["inference"], "inference")
    path = reference_of(at, "windows", cell)
    if path is None:
        raise SystemExit(f"{cell.key}: no windows in {at.data}; run the dump first")
    panel = load_panel(path)
    chosen = list(range(len(panel.folds)))[first:][-folds:]
    if not chosen:
        raise SystemExit(f"{cell.key}: {len(panel.folds)} folds, expected more than {first}; give windows.yaml more folds")
    result: dict[str, Any] = {"partition": cell.key, "num_symbols": len(panel.symbols), "folds": []}
    market = config.parse(MarketConfig, base["market"], "market")
    result |= {"bar": market.bar, "periods_per_year": market.periods_per_year, "profile": profile(), "seeds": seeds}
    for fold in chosen:
        given = inputs(at, cell, fold, store)
        with ThreadPoolExecutor(processes) as pool:
            runs = list(pool.map(partial(one_run, base, given, store), range(seeds)))
        span = panel.folds[fold].test
        times = [int(panel.ts_ns_T[span[0]]), int(panel.ts_ns_T[span[1] - 1])]
        entry = {"fold": fold, "span": times, "policies": [one for one, _ in runs], "series": [series(trace) for _, trace in runs]}
        result["folds"].append(entry)
        print(f"{cell.key} fold {fold}: {seeds} policies and traces, {sum(one['cpu_s'] for one, _ in runs):.0f} CPU-s", flush=True)
    return result


def main() -> None:
    """Run what is asked, keep the results, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("partitions", nargs="*", help="CLASS|SNAPSHOT")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--first", type=int, default=FIRST_FOLD)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    asked, at = parser.parse_args(), places()
    for cell in cells(at, asked.partitions):
        found = measure(at, cell, asked.seeds, asked.folds, asked.first, asked.processes)
        artifacts.write_atomic(at.data / "baselines" / f"{cell.asset_class}@{cell.snapshot}.json", artifacts.canonical_json(found))
    if asked.write:
        from baselines_page import write_page

        cfg = config.load(EvaluationConfig, CONFIGS / profile() / "evaluation.yaml")
        found = [json.loads(path.read_text()) for path in sorted((at.data / "baselines").glob("*.json"))]
        write_page(ROOT / "docs" / "baselines.md", found, cfg)


if __name__ == "__main__":
    main()
