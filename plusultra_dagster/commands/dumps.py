"""`plusultra dump`: what the commands do with core's gate and generators."""

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plusultra_core.data.tables import DataConfig
    from plusultra_core.market import MarketConfig


def check(path: Path, profile: str | None) -> dict[str, Any]:
    """The verdict on a file as JSON types; of an accepted one also what changed since the snapshot of this home that it follows."""
    if profile is not None:
        os.environ["PLUSULTRA_PROFILE"] = profile
    from plusultra_core.data.gate.dump import check_dump
    from plusultra_core.data.tables import DataConfig
    from plusultra_dagster.config import Data, markets

    cfg, known = Data().load(DataConfig), markets()
    report = check_dump(path, cfg, known).to_dict()
    return _since_previous(report, path, cfg, known) if report["accepted"] else report


def _since_previous(report: dict[str, Any], path: Path, cfg: "DataConfig", known: Mapping[str, "MarketConfig"]) -> dict[str, Any]:
    """The report with the findings of a comparison, made of a snapshot that is not kept."""
    from plusultra_core.data import revisions
    from plusultra_core.data.snapshot import take_snapshot
    from plusultra_dagster.places import places

    store = places().snapshots
    with tempfile.TemporaryDirectory(prefix="plusultra-") as work:
        found = revisions.since_previous(store, take_snapshot(path, Path(work), cfg, known).path, cfg.shapes()) if store.is_dir() else None
    if found is None:
        return {**report, "previous": None}
    previous, told = found
    told_too = [*report["findings"], *(finding.to_dict() for finding in told.findings)]
    return {**report, "findings": told_too, "previous": previous, "since_previous": told.counts}


def finding_lines(report: dict[str, Any]) -> list[str]:
    """The verdict for a terminal: errors, then warnings, each with its code, where it stands, what to do, and its first rows."""
    lines = []
    for level in ("error", "warning"):
        findings = [finding for finding in report["findings"] if finding["level"] == level]
        lines += [f"{len(findings)} {level}{'' if len(findings) == 1 else 's'}"] if findings else []
        for finding in findings:
            lines.append(f"  {finding['code']:<24}{_where(finding)}{finding['message']}")
            lines += [f"        {row}" for row in finding["rows"][:5]]
    if report.get("previous"):
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report["since_previous"].items() if count)
        lines.append(f"since {report['previous']}: {counts or 'nothing changed'}")
    verdict = "accepted" if report["accepted"] else "refused"
    classes = ", ".join(f"{name} {count}" for name, count in sorted(report["classes"].items()))
    return [_printable(line) for line in (*lines, f"{verdict}{f': {classes}' if classes else ''}")]


def _where(finding: dict[str, Any]) -> str:
    """Table and column, where the message does not begin with them."""
    where = ".".join(part for part in (finding["table"], finding["column"]) if part)
    return "" if not where or finding["message"].startswith(where) else f"{where}: "


def _printable(line: str) -> str:
    """A line without what could steer the terminal: a dump chooses the names in it."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def make_synthetic_dump(path: Path, seed: int, planted_ic: float | None, num_bars: int | None, num_symbols: int | None) -> dict[str, Any]:
    """A small synthetic world, made larger where asked."""
    from plusultra_core.data.samples.synthetic import make_synthetic, small_config

    cfg = small_config(seed, planted_ic)
    if num_bars is not None:
        cfg = dataclasses.replace(cfg, num_bars=num_bars)
    if num_symbols is not None:
        counts = {
            field.name: num_symbols
            for field in dataclasses.fields(cfg)
            if field.name.startswith("num_") and not field.name.endswith("bars")
        }
        cfg = dataclasses.replace(
            cfg, **{name: count for name, count in counts.items() if getattr(cfg, name) and name != "num_volatility_index"}
        )
    return dict(make_synthetic(path, cfg))
