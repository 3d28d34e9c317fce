"""Kubernetes objects as trees that can be written in two ways: as they are, and as Helm templates.

A tree is made of dicts, lists and scalars as YAML has them. Where users of the chart may choose,
stands a `Choice`; where several objects have the same, the name of a `Shared` one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import yaml

_PLACE = re.compile(
    r"^(?P<indent>[ -]*)"
    r"(?:'@(?P<key_number>\d+)@': null|(?P<key>[\w./-]+): '@(?P<number>\d+)@')$",
    re.MULTILINE,
)
SHARED = "shared"
"""The key under which a mapping names what it has in common with others: in a list of names."""


@dataclass(frozen=True)
class Choice:
    """A place where the chart has an expression, and the manifests have its default value."""

    default: object
    expression: str
    """Of Helm's templates, without braces: `.Values.image.pullPolicy`."""


@dataclass(frozen=True)
class Block(Choice):
    """A `Choice` whose expression gives a mapping, a list or a text; where that is empty, the key
    isn't there."""


@dataclass(frozen=True)
class Object:
    """A Kubernetes object, and the file that it belongs to."""

    file: str
    tree: Mapping[str, object]
    condition: str = ""
    """Of Helm's templates: when the chart has it. Without one: always."""


@dataclass
class Shared:
    """What several objects have in common: by name a mapping, and what the chart has beside it."""

    trees: dict[str, Mapping[str, object]] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)
    """By name, lines of a template that the manifests have nothing of: for choices alone."""


def plain(tree: object, shared: Shared | None = None) -> object:
    """The tree with the defaults of its choices: with what is `shared`, or (None) without."""
    if isinstance(tree, Choice):
        return plain(tree.default, shared)
    if isinstance(tree, Mapping):
        return plain_mapping(tree, shared)
    return [plain(part, shared) for part in tree] if isinstance(tree, list) else tree


def plain_mapping(tree: Mapping[str, object], shared: Shared | None = None) -> dict[str, object]:
    """`plain` of a mapping."""
    common = [shared.trees[name] for name in _shares(tree)] if shared else []
    merged = {key: value for part in [tree, *common] for key, value in part.items()}
    return {
        key: plain(value, shared)
        for key, value in merged.items()
        if key != SHARED and not _is_left_out(value, shared)
    }


def _is_left_out(value: object, shared: Shared | None) -> bool:
    if isinstance(value, Mapping):
        return shared is None and list(value) == [SHARED]
    return isinstance(value, Block) and not value.default


def _shares(tree: Mapping[str, object]) -> list[str]:
    names = tree.get(SHARED, [])
    assert isinstance(names, list)
    return names


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are read."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump(tree: object) -> str:
    """One YAML document, keys in their order and lines as long as they are."""
    # What stands in several places is written out, where it would be pointed to as one object.
    tree = json.loads(json.dumps(tree))
    return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=100_000))


def to_yaml(trees: Iterable[object], header: str) -> str:
    """A file of plain trees below a comment."""
    documents = map(dump, trees)
    return _comment(header) + "---\n".join(documents)


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in text.splitlines())


def to_template(tree: object) -> str:
    """A tree as Helm's template of it."""
    expressions: list[Choice | str] = []

    def marked(node: object) -> object:
        if isinstance(node, Choice):
            expressions.append(node)
            return f"@{len(expressions) - 1}@"
        if isinstance(node, Mapping):
            own = {key: marked(value) for key, value in node.items() if key != SHARED}
            for name in _shares(node):
                expressions.append(name)
                own[f"@{len(expressions) - 1}@"] = None
            return own
        return [marked(part) for part in node] if isinstance(node, list) else node

    text = dump(marked(tree)).replace("{{", "{{`{{`}}")

    def written(line: re.Match[str]) -> str:
        indent, key, number = line["indent"], line["key"], line["key_number"] or line["number"]
        choice = expressions[int(number)]
        depth = len(indent) + 2
        if isinstance(choice, str):
            return f'{indent}{{{{- include "cliptune.{choice}" . | nindent {len(indent)} }}}}'
        if isinstance(choice, Block):
            inner = f"{{{{- toYaml . | nindent {depth} }}}}"
            return (
                f"{indent}{{{{- with {choice.expression} }}}}\n"
                f"{indent}{key}:\n  {indent}{inner}\n{indent}{{{{- end }}}}"
            )
        quoted = " | quote" if isinstance(choice.default, str) else ""
        return f"{indent}{key}: {{{{ {choice.expression}{quoted} }}}}"

    return _PLACE.sub(written, text)
