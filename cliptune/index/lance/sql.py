"""Filters as LanceDB's SQL, over the columns of `lance_table`.

Nothing of a filter reaches the SQL but string literals and numbers that this module writes:
column names are its own, tags' names and values are data. Every leaf is true or false, never
NULL, so that SQL's logic is the filter's.
"""

from __future__ import annotations

from cliptune.index.filters.language import And, Compare, Field, In, Node, Not, Or, Scalar
from cliptune.index.tags import term


def literal(text: str) -> str:
    """An SQL string literal: the quote is doubled, and there are no other escapes."""
    return "'" + text.replace("'", "''") + "'"


def to_sql(node: Node, negated: bool = False) -> str:
    """The SQL condition of a filter's tree, or of its negation.

    Negations move to the leaves by De Morgan's laws: LanceDB's planner takes exponential time
    over nested NOTs.
    """
    if isinstance(node, Not):
        return to_sql(node.item, not negated)
    if isinstance(node, And | Or):
        if not node.items:
            return "true" if isinstance(node, And) != negated else "false"
        word = " AND " if isinstance(node, And) != negated else " OR "
        return "(" + word.join(to_sql(item, negated) for item in node.items) + ")"
    sql = _among(node.field, node.values) if isinstance(node, In) else _compare(node)
    return f"(NOT {sql})" if negated else sql


def _compare(node: Compare) -> str:
    if node.op == "==":
        return _among(node.field, (node.value,))
    value = node.value
    if node.field.builtin:
        if not isinstance(value, str):
            return "false"
        return f"coalesce({node.field.name} {node.op} {literal(value)}, false)"
    if isinstance(value, str):
        kind, operand = "string", literal(value)
    else:
        kind, operand = "number", _number(value)
    bound = f"{kind}_{'min' if node.op in ('<', '<=') else 'max'}"
    path = literal(node.field.name)
    found = f"CAST(array_position({kind}_paths, {path}) AS BIGINT)"
    return f"coalesce(array_element({bound}, {found}) {node.op} {operand}, false)"


def _number(value: Scalar) -> str:
    assert isinstance(value, int | float)  # noqa: S101
    return f"CAST('{float(value)!r}' AS DOUBLE)"


def _among(field: Field, values: tuple[Scalar, ...]) -> str:
    given = [value for value in values if value is not None]
    parts: list[str] = []
    if len(given) < len(values):
        parts.append(_missing(field))
    if field.builtin:
        texts = list(dict.fromkeys(literal(value) for value in given if isinstance(value, str)))
        if texts:
            among = f"{field.name} IN ({', '.join(texts)})"
            parts.append(among if field.name == "id" else f"coalesce({among}, false)")
    elif given:
        terms = list(dict.fromkeys(literal(term(field.name, value)) for value in given))
        if len(terms) == 1:
            parts.append(f"array_has(terms, {terms[0]})")
        else:
            parts.append(f"array_has_any(terms, [{', '.join(terms)}])")
    return f"({' OR '.join(parts)})" if len(parts) > 1 else parts[0] if parts else "false"


def _missing(field: Field) -> str:
    if field.builtin:
        return "false" if field.name == "id" else f"({field.name} IS NULL)"
    return f"(NOT array_has(terms, {literal(term(field.name))}))"
