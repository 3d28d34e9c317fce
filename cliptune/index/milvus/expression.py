"""Filters as Milvus' boolean expressions, over the columns that `milvus_keys` fills.

Nothing of a filter reaches an expression but hexadecimal digits and numbers that this module
writes. Negations move to the leaves by De Morgan's laws, and a leaf that may have no value stands
beside a term that says so: what `not` means of a missing JSON value differs between versions of
Milvus.
"""

from __future__ import annotations

from cliptune.errors import BadFilter
from cliptune.index.filters.language import And, Compare, Field, In, Node, Not, Or, Scalar
from cliptune.index.milvus.keys import ORDER_BYTES, field_key, hex_of, ordered_key, term_key
from cliptune.index.tags import term

EVERYTHING = 'id != ""'
NOTHING = 'id == ""'
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def among_ids(ids: list[str]) -> str:
    """The documents with these ids; there is at least one."""
    return f"id in [{', '.join(_quoted(hex_of(one)) for one in ids)}]"


def up_to_id(id: str) -> str:
    """The documents whose ids don't come after this one."""
    return f"id <= {_quoted(hex_of(id))}"


def both(*expressions: str | None) -> str:
    """All of the expressions; None asks nothing."""
    given = [f"({one})" for one in expressions if one is not None]
    return " and ".join(given) or EVERYTHING


def to_expression(node: Node, negated: bool = False) -> str:
    """The expression of a filter's tree, or of its negation.

    Raises `BadFilter` for an order's comparison with a string of more than 512 bytes.
    """
    if isinstance(node, Not):
        return to_expression(node.item, not negated)
    if isinstance(node, And | Or):
        if not node.items:
            return EVERYTHING if isinstance(node, And) != negated else NOTHING
        word = " and " if isinstance(node, And) != negated else " or "
        return "(" + word.join(to_expression(item, negated) for item in node.items) + ")"
    if isinstance(node, In):
        return _among(node.field, node.values, negated)
    if node.op == "==":
        return _among(node.field, (node.value,), negated)
    return _ordered(node, negated)


def _ordered(node: Compare, negated: bool) -> str:
    op = _OPPOSITE[node.op] if negated else node.op
    value, name = node.value, node.field.name
    if isinstance(value, str) and len(value.encode()) > ORDER_BYTES:
        raise BadFilter(
            f"filter: {node.field} {node.op} a string of {len(value.encode())} bytes; Milvus' "
            f"indexes compare the order with up to {ORDER_BYTES}"
        )
    if node.field.builtin:
        if not isinstance(value, str):
            return EVERYTHING if negated else NOTHING
        if name == "id":
            return f"id {op} {_quoted(hex_of(value))}"
        there, compared = field_key(name), f"{name}_order {op} {_quoted(hex_of(value))}"
    else:
        there = ordered_key("string" if isinstance(value, str) else "number", name)
        bound = "low" if node.op in ("<", "<=") else "high"
        compared = f'{bound}["{there}"] {op} {_literal(value)}'
    if negated:
        return f"({_has([there], True)} or {compared})"
    return f"({_has([there])} and {compared})"


def _among(field: Field, values: tuple[Scalar, ...], negated: bool) -> str:
    given = [value for value in values if value is not None]
    parts: list[str] = []
    if len(given) < len(values) and not (field.builtin and field.name == "id"):
        there = field_key(field.name) if field.builtin else term_key(term(field.name))
        parts.append(_has([there], not negated))
    if field.builtin:
        texts = list(dict.fromkeys(value for value in given if isinstance(value, str)))
        if texts and field.name == "id":
            parts.append(f"{'not ' if negated else ''}({among_ids(texts)})")
        elif texts:
            parts.append(_has([field_key(field.name, text) for text in texts], negated))
    elif given:
        terms = dict.fromkeys(term_key(term(field.name, value)) for value in given)
        parts.append(_has(list(terms), negated))
    if not parts:
        return EVERYTHING if negated else NOTHING
    return f"({(' and ' if negated else ' or ').join(parts)})"


def _has(terms: list[str], negated: bool = False) -> str:
    """The document has one of the terms, or with `negated` none of them."""
    listed = ", ".join(map(_quoted, terms))
    found = (
        f"array_contains(terms, {listed})"
        if len(terms) == 1
        else f"array_contains_any(terms, [{listed}])"
    )
    return f"(not {found})" if negated else found


def _literal(value: Scalar) -> str:
    if isinstance(value, str):
        return _quoted(hex_of(value))
    assert isinstance(value, int | float)  # noqa: S101
    return repr(float(value))


def _quoted(digits: str) -> str:
    """A string of hexadecimal digits, which needs no escapes."""
    assert not digits or digits.isalnum()  # noqa: S101
    return f'"{digits}"'
