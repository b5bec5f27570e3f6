"""The alerts and the dashboard's questions, by Prometheus' own tool."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml
from tests.integration.patience import patient

COMPONENTS = Path(__file__).resolve().parents[3] / "installer/manifests/components"
CASES = Path(__file__).with_name("alerts.yaml")
RULES = yaml.safe_load((COMPONENTS / "prometheus-operator/alerts.yaml").read_text())["spec"]


def promtool(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments], cwd=directory, capture_output=True, text=True, timeout=patient(60), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_alert_is_told_when_it_should_be_and_not_else(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    shutil.copy(CASES, tmp_path)
    assert "SUCCESS" in promtool(tmp_path, "check", "rules", "rules.yaml")
    assert "SUCCESS" in promtool(tmp_path, "test", "rules", "alerts.yaml")


def test_no_alert_is_left_out() -> None:
    tried = {
        case["alertname"]
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tried == {rule["alert"] for group in RULES["groups"] for rule in group["rules"]}


def test_what_the_dashboard_asks_is_promql(tmp_path: Path) -> None:
    dashboard: Any = json.loads((COMPONENTS / "grafana-dashboard/zeropod.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    filled = [expr.replace("$__rate_interval", "5m").replace("$__range", "6h") for expr in asked]
    recorded = [{"record": f"asked:{number}", "expr": expr} for number, expr in enumerate(filled)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": recorded}]}))
    assert f"SUCCESS: {len(asked)} rules found" in promtool(tmp_path, "check", "rules", "rules.yaml")
