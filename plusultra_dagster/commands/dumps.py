"""`plusultra dump`: what the commands do with core's gate and generators."""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plusultra_core.data.gate.findings import DumpReport
    from plusultra_core.data.tables import DataConfig


def check(path: Path, profile: str | None) -> dict[str, Any]:
    """The verdict on a file as JSON types; of an accepted one also what changed since the snapshot of this home that it follows."""
    if profile is not None:
        os.environ["PLUSULTRA_PROFILE"] = profile
    from plusultra_core.data.gate.dump import check_dump
    from plusultra_core.data.tables import DataConfig
    from plusultra_dagster.config import Data, markets

    cfg, known = Data().load(DataConfig), markets()
    with tempfile.TemporaryDirectory(prefix="plusultra-") as work:
        made = Path(work) / "made"
        made.mkdir()
        report = check_dump(path, cfg, known, into=made)
        return _since_previous(report, path, cfg, made) if report.accepted else report.to_dict()


def _since_previous(report: "DumpReport", path: Path, cfg: "DataConfig", made: Path) -> dict[str, Any]:
    """The report with the findings of a comparison of the tables that the gate has `made`; they are not kept."""
    from plusultra_core.artifacts import publish, sha256_file
    from plusultra_core.data import revisions
    from plusultra_core.data.gate.dump import has_log
    from plusultra_core.data.snapshot import DATABASE, back_up, snapshot_key
    from plusultra_dagster.places import places

    said, store = report.to_dict(), places().snapshots
    if not store.is_dir():
        return {**said, "previous": None}

    def fill(directory: Path) -> None:
        for file in made.iterdir():
            file.rename(directory / file.name)

    content = path
    if has_log(path):  # a snapshot goes by what stands in the file and its log together
        content = made.parent / DATABASE
        back_up(path, content, cfg.gate)
    current = publish(made.parent, snapshot_key(path.stem, sha256_file(content)), fill, said).path
    found = revisions.since_previous(store, current, cfg.shapes())
    if found is None:
        return {**said, "previous": None}
    previous, told = found
    findings = [finding.to_dict() for finding in (*report.findings, *told.findings)]
    return {**said, "findings": findings, "previous": previous, "since_previous": told.counts}


def finding_lines(report: dict[str, Any]) -> list[str]:
    """The verdict for a terminal: errors, then warnings, each with code, place, what to do, and the first rows it does not quote."""
    lines = []
    for level in ("error", "warning"):
        findings = [finding for finding in report["findings"] if finding["level"] == level]
        lines += [f"{len(findings)} {level}{'' if len(findings) == 1 else 's'}"] if findings else []
        for finding in findings:
            lines.append(f"  {finding['code']:<24}{_where(finding)}{finding['message']}")
            lines += [f"        {text}" for text in map(_row, finding["rows"][:5]) if text not in finding["message"]]
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


def _row(row: dict[str, Any]) -> str:
    """A row in the form that a finding's sentence quotes its first ones in."""
    return ", ".join(f"{name}={value!r}" for name, value in row.items())


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
