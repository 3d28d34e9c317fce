"""Prometheus' alerts: they are raised when they should be, and what they ask for is measured."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

from cliptune.observability import metrics
from tests.k8s.rendering import tool

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "monitoring" / "alerts.yml"
PLAYED = Path(__file__).with_name("alerts.yml")
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
OTHERS = {"kubelet", "kube"}
"""Prefixes of what the cluster itself measures."""


def promtool(*words: str) -> None:
    done = subprocess.run([tool("promtool"), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_them() -> None:
    promtool("check", "config", str(ROOT / "monitoring" / "prometheus.yml"))


def test_they_are_raised_when_they_should_be(tmp_path: Path) -> None:
    played = tmp_path / "played.yml"
    played.write_text(PLAYED.read_text().replace("ALERTS", str(ALERTS)))
    promtool("test", "rules", str(played))
    cases = [case for test in yaml.safe_load(PLAYED.read_text())["tests"]
             for case in test["alert_rule_test"]]  # fmt: skip
    for raised in (True, False):
        tried = {case["alertname"] for case in cases if ("exp_alerts" in case) == raised}
        assert tried == {rule["alert"] for rule in RULES}


def test_what_they_ask_for_is_measured() -> None:
    collectors = vars(metrics).values()
    exported = {
        sample
        for one in collectors
        if isinstance(one, metrics.Counter | metrics.Gauge | metrics.Histogram)
        for family in one.describe()
        for sample in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    for rule in RULES:
        asked = set(re.findall(r"\b(\w+_\w+)\b(?=[{\[)]| <| /)", rule["expr"])) - {"le"}
        assert asked, rule
        own = {name for name in asked if name.partition("_")[0] not in OTHERS}
        assert own <= exported, own - exported


def test_each_has_a_runbook() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert {rule["annotations"]["runbook"] for rule in RULES} <= anchors
