"""`k8s/chart/`: the same objects as a Helm chart, whose defaults give what the base has."""

from __future__ import annotations

import json
from collections.abc import Mapping

from cliptune.settings import Settings, variable_of
from scripts.kubernetes.kustomize import MADE
from scripts.kubernetes.tree import dump, to_template
from scripts.kubernetes.workloads import (
    DECIDED,
    MILVUS,
    NAME,
    SIZES,
    VARIABLES,
    VERSION,
    Tree,
    milvus,
    models,
    monitoring,
    objects,
    parts,
    shared,
)

ABOUTS = {
    "image": "The image of all parts; a digest (sha256:...) goes before the tag.",
    "config": "Settings of all parts: any of the documentation's page on settings.",
    "model": "A model's name; or where an artifact is (s3://, https://) and its digest: an init "
    "container\n# fetches it, with what is in the Secret, such as AWS_ACCESS_KEY_ID.",
    "keys": "API keys, from a Secret made of `cliptune keys` (its key is `keys`).",
    "tls": "TLS up to the gateways' pods, from a Secret of type kubernetes.io/tls.",
    "milvus": "The index in a Milvus that is there already, instead of the indexer's volume.",
    "prometheusOperator": "A PodMonitor and the alerts, where the Prometheus operator is there.",
    "networkPolicy": "Executors are reached by gateways alone, and nothing reaches out.",
}
_IMAGE = """\
{{- define "cliptune.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}
{{- end }}
"""


def files() -> dict[str, str]:
    """Every file by its path below `k8s/chart/`."""
    values = _values()
    chart = {
        "apiVersion": "v2",
        "name": NAME,
        "description": "Text-to-image search by a CLIP model of your own, and its fine-tuning.",
        "type": "application",
        "version": VERSION.replace(".dev", "-dev."),
        "appVersion": VERSION,
        "kubeVersion": ">=1.27.0-0",
    }
    header = f"# {MADE}\n"
    return {
        "Chart.yaml": header + dump(chart),
        "values.yaml": header + _commented(values),
        "values.schema.json": json.dumps(_schema(values), indent=2) + "\n",
        "templates/_helpers.tpl": _helpers(),
        **{f"templates/{name}": header + text for name, text in _templates().items()},
    }


def _values() -> dict[str, Tree]:
    own = {one.name: one.value for one in VARIABLES if one.name not in DECIDED}
    found: dict[str, Tree] = {
        "image": {"repository": NAME, "tag": VERSION, "digest": "", "pullPolicy": "IfNotPresent"},
        "config": dict(own),
        "model": {"name": "builtin", "source": "", "digest": "", "secret": "cliptune-model"},
        "keys": {"required": True, "secret": "cliptune-keys"},
        "tls": {"enabled": False, "secret": "cliptune-tls"},
        "milvus": {"enabled": False, "uri": MILVUS, "namespace": "milvus"},
        "networkPolicy": {"enabled": True},
        "prometheusOperator": {"enabled": False},
    }
    for part in parts():
        size = SIZES[part.name]
        tree: Tree = {}
        if size.most > 1:
            tree["autoscaling"] = {"least": 2, "most": size.most, "cpu": 70}
        if size.keeps:
            tree["storage"] = {"size": size.keeps, "className": ""}
        tree["resources"] = size.resources()
        found[part.name] = {**tree, "nodeSelector": {}, "tolerations": []}
    return found


def _commented(values: Mapping[str, Tree]) -> str:
    lines = []
    for name, tree in values.items():
        lines += [f"# {ABOUTS[name]}\n"] if name in ABOUTS else []
        lines.append(dump({name: tree}))
    return "".join(lines)


_FREE = ("config", "resources", "nodeSelector")
"""Mappings whose keys are not ours."""
_MORE: dict[str, Tree] = {
    "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.digest": {"pattern": "^(sha256:[0-9a-f]{64})?$"},
    "model.digest": {"pattern": "^((sha256:)?[0-9a-f]{64})?$"},
    "least": {"minimum": 1},
    "most": {"minimum": 1},
    "cpu": {"minimum": 1, "maximum": 100},
    "size": {"pattern": "^[0-9]+(Ki|Mi|Gi|Ti)$"},
}


def _schema(values: object, key: str = "", parent: str = "") -> Tree:
    """JSON Schema of values that are like these; a key that isn't there is refused."""
    if key == "config":
        own = {variable_of(field) for field in Settings.model_fields} - DECIDED
        text: Tree = {"type": "string"}
        return {
            "type": "object",
            "properties": dict.fromkeys(sorted(own), text),
            "patternProperties": {"^(JINA|HF|OTEL|TORCH|OMP)_[A-Z0-9_]+$": text},
            "additionalProperties": False,
        }
    if key in _FREE:
        return {"type": "object"}
    if isinstance(values, Mapping):
        properties = {name: _schema(value, name, key) for name, value in values.items()}
        # Helm itself adds it where a chart is part of another.
        added: Tree = {} if key else {"global": {"type": "object"}}
        return {
            **({} if key else {"$schema": "http://json-schema.org/draft-07/schema#"}),
            "type": "object",
            "properties": properties | added,
            "additionalProperties": False,
        }
    kinds: dict[type, str] = {bool: "boolean", int: "integer", str: "string", list: "array"}
    return {"type": kinds[type(values)], **_MORE.get(key, _MORE.get(f"{parent}.{key}", {}))}


def _helpers() -> str:
    common = shared()
    texts = [f"{{{{- /* {MADE} */}}}}\n", _IMAGE]
    decided = {one.name: one for one in VARIABLES if one.name in DECIDED}
    lines = ["{{- range $name, $value := .Values.config }}", "{{ $name }}: {{ $value | quote }}",
             "{{- end }}"]  # fmt: skip
    for name, one in decided.items():
        value = f"{{{{ {one.expression} | quote }}}}" if one.expression else json.dumps(one.value)
        lines.append(f"{name}: {value}")
    lines += ["{{- if .Values.model.source }}", "MODEL_SOURCE: {{ .Values.model.source | quote }}",
              'MODEL_DIGEST: {{ required "model.digest" .Values.model.digest | quote }}',
              "{{- end }}"]  # fmt: skip
    lines += ["{{- if .Values.milvus.enabled }}", "CLIPTUNE_PICTURES: /data/pictures", "{{- end }}"]
    texts.append(_define("config", "\n".join(lines)))
    for name, tree in common.trees.items():
        more = common.beside.get(name)
        text = "\n".join(filter(None, [to_template(tree).rstrip("\n") if tree else "", more]))
        texts.append(_define(name, text))
    return "\n".join(texts)


def _define(name: str, text: str) -> str:
    return f'{{{{- define "cliptune.{name}" -}}}}\n{text}\n{{{{- end }}}}\n'


def _templates() -> dict[str, str]:
    config: Tree = {"apiVersion": "v1", "kind": "ConfigMap"}
    settings = dump(config) + (
        "metadata:\n  name: cliptune\n  namespace: {{ .Release.Namespace | quote }}\n"
        'data:\n  {{- include "cliptune.config" . | nindent 2 }}\n'
    )
    by_file: dict[str, list[str]] = {"config.yaml": [settings]}
    for one in [*objects(), *milvus(), *models(), *monitoring()]:
        text = to_template(one.tree)
        if one.condition:
            text = f"{{{{- if {one.condition} }}}}\n{text}{{{{- end }}}}\n"
        by_file.setdefault(one.file, []).append(text)
    return {file: "---\n".join(texts) for file, texts in by_file.items()}
