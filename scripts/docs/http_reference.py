"""A hook of mkdocs: the reference of the HTTP calls, from the applications' own OpenAPI.

It takes the place of `<!-- search service -->` and `<!-- train service -->` in a page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

SEARCH, TRAIN = "<!-- search service -->", "<!-- train service -->"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the references where the page asks for them."""
    if SEARCH not in markdown and TRAIN not in markdown:
        return markdown
    from cliptune.gateway import search_app, train_app
    from cliptune.protocol.limits import Limits
    from cliptune.settings import Settings

    # In place of a gateway's; to describe calls nobody needs to be admitted.
    settings = Settings.read()
    handler = SimpleNamespace(admission=None, settings=settings, limits=Limits(settings))
    dispatcher: Any = SimpleNamespace(handler=handler)
    markdown = markdown.replace(SEARCH, reference(search_app.make_app(dispatcher).openapi()))
    return markdown.replace(TRAIN, reference(train_app.make_app(dispatcher).openapi()))


def reference(description: dict[str, Any]) -> str:
    """An OpenAPI `description` as Markdown, a section for each call."""
    lines: list[str] = []
    for path, methods in description["paths"].items():
        for method, told in methods.items():
            lines += _operation(f"{method.upper()} {path}", told)
    return "\n".join(lines)


def _operation(name: str, told: dict[str, Any]) -> Iterator[str]:
    body = told.get("requestBody", {}).get("content", {}).get("application/json", {})
    yield f"### {name}\n"
    yield f"{told.get('description') or told.get('summary') or ''}\n"
    fields = [(one["name"], one) for one in told.get("parameters", [])]
    fields += _fields(body.get("schema", {}))
    if fields:
        yield "| Field | Type | Meaning |\n| --- | --- | --- |"
        yield from (
            f"| `{field}` | {_kind(about)} | {_meaning(about)} |" for field, about in fields
        )
        yield ""
    if "example" in body:
        example = json.dumps(body["example"], indent=2, ensure_ascii=False)
        yield f"```json\n{example}\n```\n"


def _fields(schema: dict[str, Any], before: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in schema.get("properties", {}).items():
        yield before + name, field
        yield from _fields(field.get("items", {}), f"{before}{name}[].")


def _kind(field: dict[str, Any]) -> str:
    schema = field.get("schema", field)
    kinds = [kind.get("type") for kind in schema.get("anyOf", [schema])]
    words = " or ".join(kind for kind in kinds if kind and kind != "null")
    default = schema.get("default")
    return words if default in (None, "", {}, []) else f"{words}, default `{json.dumps(default)}`"


def _meaning(field: dict[str, Any]) -> str:
    about = field.get("description") or field.get("schema", {}).get("description") or ""
    return " ".join(about.split()).replace("|", "\\|")
