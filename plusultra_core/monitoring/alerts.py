"""Alert rules as data, and the file that Prometheus reads.

By hand: `python -m plusultra_core.monitoring.alerts configs/base/monitoring.yaml > rules.yml; promtool check rules rules.yml`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from plusultra_core.config import parse, read_yaml
from plusultra_core.errors import ConfigError

RUNBOOK = "docs/stations/monitoring.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertsConfig:
    """Levels of the alert rules."""

    hold_min: int
    """Minutes that a condition must hold before anybody is called."""
    rate_window_min: int
    """Minutes over which rates are taken."""
    max_error_frac: float
    max_latency_p99_s: float
    max_staleness_bars: float
    max_auth_failures_per_min: float
    max_drift_alarms: int

    def __post_init__(self) -> None:
        for name in ("hold_min", "rate_window_min"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected >= 1, found {getattr(self, name)}")
        for name in ("max_error_frac", "max_latency_p99_s", "max_staleness_bars", "max_auth_failures_per_min", "max_drift_alarms"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected >= 0, found {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class AlertRule:
    """One rule. Labels carry no numbers: a value in a label makes a new alert of every change."""

    name: str
    expr: str
    hold_min: int
    severity: Literal["page", "ticket"]
    summary: str


def build_rules(cfg: AlertsConfig) -> tuple[AlertRule, ...]:
    """The rules at the levels of the config."""
    window = f"[{cfg.rate_window_min}m]"
    requests = "plusultra_service_requests_total"
    errors = f'sum(rate({requests}{{status="5xx"}}{window})) / sum(rate({requests}{window}))'
    latency = f"histogram_quantile(0.99, sum by (le) (rate(plusultra_service_latency_seconds_bucket{window})))"
    refused = f"sum(rate(plusultra_service_auth_failures_total{window})) * 60"
    halted = f'sum(increase(plusultra_service_guardrail_reasons_total{{reason="state_halted"}}{window})) > 0'
    hold = cfg.hold_min
    return (
        AlertRule("PlusUltraServiceAbsent", "absent(plusultra_service_ready)", hold, "page", "The service is not scraped."),
        AlertRule("PlusUltraServiceNotReady", "plusultra_service_ready == 0", hold, "page", "The service runs and has nothing to serve."),
        AlertRule("PlusUltraErrors", f"{errors} > {cfg.max_error_frac}", hold, "page", "Too many answers are 5xx."),
        AlertRule("PlusUltraSlow", f"{latency} > {cfg.max_latency_p99_s}", hold, "ticket", "The slowest answers are too slow."),
        AlertRule(
            "PlusUltraStaleBars",
            f"plusultra_service_staleness_bars > {cfg.max_staleness_bars}",
            hold,
            "page",
            "The newest bar served is too old.",
        ),
        AlertRule(
            "PlusUltraAuthFailures",
            f"{refused} > {cfg.max_auth_failures_per_min}",
            hold,
            "ticket",
            "Somebody knocks without a key.",
        ),
        AlertRule("PlusUltraHalted", halted, 0, "page", "The guardrails have halted an account."),
        AlertRule(
            "PlusUltraDrift", f"plusultra_drift_alarms > {cfg.max_drift_alarms}", 0, "ticket", "Features have left the training reference."
        ),
    )


def render_rules(cfg: AlertsConfig) -> str:
    """The rules file of Prometheus; equal configs, equal text."""
    rules = [
        {
            "alert": rule.name,
            "expr": rule.expr,
            **({"for": f"{rule.hold_min}m"} if rule.hold_min else {}),
            "labels": {"severity": rule.severity},
            "annotations": {"summary": rule.summary, "runbook": f"{RUNBOOK}#{rule.name.lower()}"},
        }
        for rule in build_rules(cfg)
    ]
    return yaml.safe_dump({"groups": [{"name": "plusultra", "rules": rules}]}, sort_keys=False, width=200)


def main(arguments: list[str]) -> int:
    """Print the rules of one monitoring config."""
    if len(arguments) != 1:
        print("usage: python -m plusultra_core.monitoring.alerts configs/<profile>/monitoring.yaml", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    cfg = parse(AlertsConfig, read_yaml(path).get("alerts"), f"{path}: alerts")
    print(render_rules(cfg), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
