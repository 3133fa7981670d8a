"""`plusultra dump`: what the commands do with core's gate and generators."""

import dataclasses
import os
from pathlib import Path
from typing import Any


def check(path: Path, profile: str | None) -> dict[str, Any]:
    """The verdict on a file as JSON types."""
    if profile is not None:
        os.environ["PLUSULTRA_PROFILE"] = profile
    from plusultra_core.data.gate.dump import check_dump
    from plusultra_core.data.tables import DataConfig
    from plusultra_dagster.config import Data, markets

    return check_dump(path, Data().load(DataConfig), markets()).to_dict()


def finding_lines(report: dict[str, Any]) -> list[str]:
    """The verdict for a terminal."""
    lines = []
    for finding in report["findings"]:
        where = ".".join(part for part in (finding["table"], finding["column"]) if part) or "file"
        lines.append(f"{finding['level']:<8}{finding['code']:<24}{where}: {finding['message']}")
        lines += [f"        {row}" for row in finding["rows"][:5]]
    verdict = "accepted" if report["accepted"] else "refused"
    classes = ", ".join(f"{name} {count}" for name, count in sorted(report["classes"].items()))
    return [*lines, f"{verdict}{f': {classes}' if classes else ''}"]


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
