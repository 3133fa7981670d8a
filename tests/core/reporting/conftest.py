"""Evidence from the evaluation's small world, so that a report is tested on what its judge really writes."""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from plusultra_core import config
from plusultra_core.evaluation.promotion import decide
from plusultra_core.evaluation.scorecard import EvaluationConfig, build_scorecard, trials_of
from plusultra_core.evaluation.significance import build_significance
from plusultra_core.market import MarketConfig
from plusultra_core.reporting.render import ReportingConfig
from plusultra_core.reporting.sections import Evidence

HOSTILE = "<script>alert('x')</script>|`$x^$`[a](http://evil.example)\n# b"
HISTORY = {
    "supervised": [
        {"fold": fold, "model": model, "epoch": float(epoch), "train_loss": 1.0 / (epoch + 1), "valid_loss": 1.2 / (epoch + 1)}
        for fold in range(2)
        for model in ("hybrid", "linear")
        for epoch in range(5)
    ],
    "ppo": [{"update": float(n), "approx_kl": 0.01, **({"valid_reward": 0.1 * n} if n % 2 == 0 else {})} for n in range(6)],
}
FINDINGS = [{"level": "warning", "code": "gap", "table": "series", "column": None, "message": f"{HOSTILE}: long gap", "rows": []}]
CHECKS = [{"name": "features:truncation", "passed": True}, {"name": "windows:overlap", "passed": False}]


def _worlds() -> ModuleType:
    """The evaluation's conftest, which cannot be imported by name."""
    name = "evaluation_worlds"
    if name not in sys.modules:
        path = Path(__file__).resolve().parents[1] / "evaluation" / "conftest.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def make_evidence(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Evidence]:
    """Scorecard, significance and decision of a world, with findings, checks and history beside them."""

    def make(**options: Any) -> Evidence:
        world = _worlds().World(**options)
        cfg = config.load(EvaluationConfig, root / "configs" / "smoke" / "evaluation.yaml")
        market = config.load(MarketConfig, root / "configs" / "markets" / "equity.yaml")
        trace = world.write_trace(tmp_path_factory.mktemp("trace"))
        frames = (world.forecasts(), world.regimes(), world.bars())
        card = build_scorecard(trace, *frames, market, cfg, {"snapshot": "dump-0123456789ab"}, world.targets())
        trials, returns = trials_of(card, "0" * 16), card["series"]["locked"]["ret"]
        tested = build_significance(returns, card["models"], trials, cfg.significance, cfg.bootstrap, cfg.seed)
        decision = dataclasses.asdict(decide(card, None, cfg.promotion, cfg.bootstrap))
        return Evidence(card, tested, FINDINGS, CHECKS, HISTORY, decision)

    return make


@pytest.fixture(scope="session")
def evidence(make_evidence: Callable[..., Evidence]) -> Evidence:
    """Evidence of the default world."""
    return make_evidence()


@pytest.fixture(scope="session")
def cfg(root: Path) -> ReportingConfig:
    """The smoke profile."""
    return config.load(ReportingConfig, root / "configs" / "smoke" / "reporting.yaml")


@pytest.fixture(scope="session")
def hostile() -> str:
    """A symbol that tries everything."""
    return HOSTILE
