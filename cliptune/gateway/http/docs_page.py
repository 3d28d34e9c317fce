"""The page at `/docs`: what an application answers to, from its OpenAPI description.

FastAPI's own page loads Swagger from a CDN, which tells others who reads it, and is blank without
Internet. This one is a single file without scripts.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --soft: light-dark(#6f6a62, #a49d92);
  --line: light-dark(#e3ded6, #35312c); --tile: light-dark(#f7f5f2, #201e1b); }
body { max-width: 860px; margin: 40px auto; padding: 0 20px; line-height: 1.5;
  font-family: ui-sans-serif, system-ui, sans-serif; }
h1 { letter-spacing: -.02em; } h2 { margin: 0; font-size: 17px; }
section { margin: 18px 0; padding: 16px 20px; border: 1px solid var(--line); border-radius: 14px; }
p { margin: 8px 0; white-space: pre-line; }
code, pre, h2 { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { overflow-x: auto; padding: 12px; border-radius: 10px; background: var(--tile); }
td { padding: 3px 18px 3px 0; vertical-align: top; font-size: 14.5px; }
td + td { color: var(--soft); } a { color: inherit; }
"""
POLICY = "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; frame-ancestors 'none'"


def policy() -> str:
    """The page's Content-Security-Policy: its own style and nothing else."""
    return POLICY.format(base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode())


def page(description: dict[str, Any], prefix: str = "") -> str:
    """The page of an OpenAPI `description`; the service is below `prefix`."""
    info = description["info"]
    parts = [
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>",
        f"<p>{escape(info.get('description', ''))}</p>",
        f'<p>For tools: <a href="{escape(prefix)}/openapi.json">openapi.json</a></p>',
    ]
    for path, methods in description["paths"].items():
        parts += [_operation(path, method, operation) for method, operation in methods.items()]
    title = escape(info["title"])
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )


def _operation(path: str, method: str, told: dict[str, Any]) -> str:
    body = told.get("requestBody", {}).get("content", {}).get("application/json", {})
    fields = [(p["name"], p) for p in told.get("parameters", [])]
    fields += _fields(body.get("schema", {}))
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(_words(field))}</td></tr>"
        for name, field in fields
    )
    words = told.get("description") or told.get("summary") or ""
    example = json.dumps(body["example"], indent=2, ensure_ascii=False) if "example" in body else ""
    return (
        f"<section><h2>{method.upper()} {escape(path)}</h2><p>{escape(words)}</p>"
        + (f"<table>{rows}</table>" if rows else "")
        + (f"<pre>{escape(example)}</pre>" if example else "")
        + "</section>"
    )


def _fields(schema: dict[str, Any], before: str = "") -> list[tuple[str, dict[str, Any]]]:
    rows = []
    for name, field in schema.get("properties", {}).items():
        rows.append((before + name, field))
        rows += _fields(field.get("items", {}), f"{before}{name}[].")
    return rows


def _words(field: dict[str, Any]) -> str:
    schema = field.get("schema", field)
    kinds = [kind.get("type") for kind in schema.get("anyOf", [schema])]
    default = schema.get("default")
    words = " or ".join(kind for kind in kinds if kind and kind != "null")
    words += f", default {json.dumps(default)}" if default not in (None, "", {}, []) else ""
    about = field.get("description") or schema.get("description") or ""
    return f"{words}. {about}" if about else words
