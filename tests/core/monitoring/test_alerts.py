"""Alert rules: what they watch exists, what they say can be followed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from plusultra_core.config import load
from plusultra_core.monitoring import metrics
from plusultra_core.monitoring.alerts import RUNBOOK, AlertsConfig, build_rules, render_rules
from plusultra_core.monitoring.drift import MonitoringConfig

PROFILES = ("smoke", "base", "gpu24", "h200")


@pytest.fixture
def cfg(root: Path) -> AlertsConfig:
    return load(MonitoringConfig, root / "configs/base/monitoring.yaml").alerts


def test_every_rule_watches_a_metric_that_is_exported(cfg: AlertsConfig, root: Path) -> None:
    exported = {value for name, value in vars(metrics).items() if name.isupper() and isinstance(value, str)}

    exported |= set(re.findall(r'"(plusultra_service_\w+)"', (root / "plusultra_core/service/gauges.py").read_text()))
    for rule in build_rules(cfg):
        watched = set(re.findall(r"plusultra_\w+", rule.expr))
        assert watched
        assert {name.removesuffix("_bucket").removesuffix("_total") for name in watched} <= exported, rule.name


def test_every_rule_has_a_paragraph_in_the_runbook(cfg: AlertsConfig, root: Path) -> None:
    headings = set(re.findall(r"^#+ (\S+)$", (root / RUNBOOK).read_text(), flags=re.MULTILINE))
    assert {rule.name for rule in build_rules(cfg)} <= headings


def test_labels_carry_no_numbers(cfg: AlertsConfig) -> None:
    rules = yaml.safe_load(render_rules(cfg))["groups"][0]["rules"]
    assert all(rule["labels"] in ({"severity": "page"}, {"severity": "ticket"}) for rule in rules)
    assert "$value" not in render_rules(cfg)


def test_names_are_unique_and_the_text_is_stable(cfg: AlertsConfig) -> None:
    names = [rule.name for rule in build_rules(cfg)]
    assert len(set(names)) == len(names)
    assert render_rules(cfg) == render_rules(cfg)


@pytest.mark.parametrize("profile", PROFILES)
def test_prometheus_takes_the_rules(profile: str, root: Path, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    file = tmp_path / "rules.yml"
    file.write_text(render_rules(load(MonitoringConfig, root / f"configs/{profile}/monitoring.yaml").alerts))
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_drift_alert_fires_on_an_alarm_and_only_then(cfg: AlertsConfig, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    (tmp_path / "rules.yml").write_text(render_rules(cfg))
    tests = [
        {
            "interval": "1m",
            "input_series": [
                {"series": "plusultra_drift_alarms", "values": "0 0 1 1"},
                {"series": "plusultra_service_ready", "values": "1 1 1 1"},
            ],
            "alert_rule_test": [
                {"eval_time": "1m", "alertname": "PlusUltraDrift", "exp_alerts": []},
                {
                    "eval_time": "2m",
                    "alertname": "PlusUltraDrift",
                    "exp_alerts": [
                        {
                            "exp_labels": {"severity": "ticket"},
                            "exp_annotations": {
                                "summary": "Features have left the training reference.",
                                "runbook": f"{RUNBOOK}#plusultradrift",
                            },
                        }
                    ],
                },
            ],
        }
    ]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
