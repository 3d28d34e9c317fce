"""Make the manifests, the Helm chart and the compose file anew from the Flows.

python -m scripts.kubernetes
"""

from __future__ import annotations

from scripts.kubernetes import chart, compose, kustomize
from scripts.kubernetes.workloads import ROOT


def made() -> dict[str, str]:
    """Every file that is made, by its path in the repository."""
    manifests = {f"k8s/{path}": text for path, text in kustomize.files().items()}
    in_chart = {f"k8s/chart/{path}": text for path, text in chart.files().items()}
    return {**manifests, **in_chart, "docker-compose.yml": compose.file()}


def main() -> None:
    """Write them."""
    for path, text in made().items():
        file = ROOT / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
