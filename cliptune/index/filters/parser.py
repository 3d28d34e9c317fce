"""From what is given for a filter to its syntax tree: expressions and mappings.

`language` is the manual. Expressions go through a tokenizer and a recursive-descent parser::

    expression := conjunction ('or' conjunction)*
    conjunction := negation ('and' negation)*
    negation := 'not' negation | '(' expression ')' | comparison
    comparison := field (op value | ['not'] 'in' '[' [value (',' value)* [',']] ']')
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from cliptune.errors import BadFilter, near_matches
from cliptune.index.filters.language import (
    BUILTIN_FIELDS,
    MAX_DEPTH,
    And,
    Compare,
    Field,
    Filter,
    In,
    Node,
    Not,
    Or,
    Scalar,
    leaves,
)

MAX_COMPARISONS = 256
MAX_VALUES = 10_000
MAX_LENGTH = 1_000_000
_MAX_NESTING = 64
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<quoted>`(?:[^`]|``)*`)
      | (?P<name>\$?[^\W\d][\w-]*(?:\.[\w-]+)*)
      | (?P<op>==|!=|<=|>=|<|>)
      | (?P<mark>[()\[\],])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {
    "\\": "\\",
    "'": "'",
    '"': '"',
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "/": "/",
    "b": "\b",
    "f": "\f",
}
_WORDS: dict[str, Scalar] = {"true": True, "false": False, "null": None, "none": None}
_KEYWORDS = {"and", "or", "not", "in", *_WORDS}
_HINTS = {"=": "use ==", "&": "use and", "|": "use or", "!": "use not", "<>": "use !="}


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def parse_filter(given: Filter | None) -> Node | None:
    """The syntax tree of an expression, a mapping or a tree; None where nothing is asked.

    None, a blank string and an empty mapping ask nothing. Raises `BadFilter`.
    """
    if given is None:
        return None
    if isinstance(given, str):
        node = parse_expression(given) if given.strip() else None
    elif isinstance(given, Mapping):
        node = _from_mapping(given, "filter", 0) if given else None
    elif isinstance(given, Compare | In | And | Or | Not):
        node = given
    else:
        raise BadFilter(f"a filter is an expression or a mapping, not {type(given).__name__}")
    if node is None:
        return None
    node = _flatten(node)
    _check_size(node)
    return node


def _flatten(node: Node) -> Node:
    """Merge nested `And`s and `Or`s, drop double negations: depth is then what the user means."""
    if isinstance(node, Not):
        inner = _flatten(node.item)
        return inner.item if isinstance(inner, Not) else Not(inner)
    if isinstance(node, And | Or):
        kind = type(node)
        items: list[Node] = []
        for item in map(_flatten, node.items):
            items.extend(item.items if isinstance(item, kind) else (item,))
        return items[0] if len(items) == 1 else kind(tuple(items))
    return node


def _check_size(node: Node) -> None:
    comparisons = list(leaves(node))
    if len(comparisons) > MAX_COMPARISONS:
        raise BadFilter(
            f"the filter makes {len(comparisons)} comparisons, at most {MAX_COMPARISONS} are "
            "allowed (use `in [...]` for many values of one field)"
        )
    values = sum(len(leaf.values) for leaf in comparisons if isinstance(leaf, In))
    if values > MAX_VALUES:
        raise BadFilter(f"the filter lists {values} values, at most {MAX_VALUES} are allowed")


def conjunction(items: Sequence[Node]) -> Node:
    """All of `items`, without a level of its own for a single one."""
    return items[0] if len(items) == 1 else And(tuple(items))


def disjunction(items: Sequence[Node]) -> Node:
    """One of `items`, without a level of its own for a single one."""
    return items[0] if len(items) == 1 else Or(tuple(items))


def check_value(value: object, where: str) -> Scalar:
    """A string, finite number, boolean or None, as it is; anything else raises `BadFilter`."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadFilter(f"{where}: {value!r} is not valid Unicode") from error
        return value
    if isinstance(value, int | float):
        try:
            number = float(value)
        except OverflowError as error:
            raise BadFilter(f"{where}: the number is beyond 64-bit floats") from error
        if not math.isfinite(number):
            raise BadFilter(f"{where}: {value!r} can't be compared with")
        return number
    raise BadFilter(
        f"{where}: a value is a string, number, boolean or null, not {type(value).__name__}"
    )


def compare(field: Field, op: str, value: Scalar, where: str) -> Node:
    """The node of `field op value`, `!=` included; refuses an order of booleans and null."""
    if op == "==":
        return Compare(field, "==", value)
    if op == "!=":
        return Not(Compare(field, "==", value))
    if value is None or isinstance(value, bool):
        shown = "null" if value is None else str(value).lower()
        raise BadFilter(f"{where}: {op} has no meaning for {shown}; use == or !=")
    assert op in ("<", "<=", ">", ">=")  # noqa: S101
    return Compare(field, op, value)  # type: ignore[arg-type]


_COMPARISONS = {"$eq": "==", "$ne": "!=", "$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}
_FIELD_OPS = (*_COMPARISONS, "$in", "$nin", "$exists", "$not")
_TOP_OPS = ("$and", "$or", "$nor", "$not")


def _from_mapping(given: object, where: str, depth: int) -> Node:
    if not isinstance(given, Mapping):
        raise BadFilter(f"{where}: expected a mapping, got {type(given).__name__}")
    if depth > 4 * MAX_DEPTH:
        raise BadFilter(f"{where}: nested too deeply")
    items: list[Node] = []
    for key, value in given.items():
        if not isinstance(key, str):
            raise BadFilter(f"{where}: {key!r} is not a field's name")
        inside = f"{where}[{key!r}]"
        if key in ("$and", "$or", "$nor"):
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                raise BadFilter(f"{inside}: expected a list of one or more mappings")
            parts = [
                _from_mapping(part, f"{inside}[{n}]", depth + 1) for n, part in enumerate(value)
            ]
            joined = conjunction(parts) if key == "$and" else disjunction(parts)
            items.append(Not(joined) if key == "$nor" else joined)
        elif key == "$not":
            items.append(Not(_from_mapping(value, inside, depth + 1)))
        elif key.startswith("$") and key[1:] not in BUILTIN_FIELDS:
            known = [*_TOP_OPS, *(f"${name}" for name in BUILTIN_FIELDS)]
            raise BadFilter(f"{inside}: there is no such operator here; {near_matches(key, known)}")
        else:
            items.append(_field_condition(_field(key, inside), value, inside, depth + 1))
    return conjunction(items)


def _field(key: str, where: str) -> Field:
    check_value(key, where)
    if key.startswith("$"):
        return Field(key[1:], builtin=True)
    if key.startswith("tags__"):
        return Field(key.removeprefix("tags__").replace("__", "."))
    return Field(key)


def _field_condition(field: Field, value: object, where: str, depth: int) -> Node:
    if not isinstance(value, Mapping):
        return Compare(field, "==", check_value(value, where))
    if not value:
        raise BadFilter(f"{where}: an empty mapping; operators are {', '.join(_FIELD_OPS)}")
    if depth > 4 * MAX_DEPTH:
        raise BadFilter(f"{where}: nested too deeply")
    items: list[Node] = []
    for op, operand in value.items():
        inside = f"{where}[{op!r}]"
        if op in _COMPARISONS:
            items.append(compare(field, _COMPARISONS[op], check_value(operand, inside), inside))
        elif op in ("$in", "$nin"):
            if isinstance(operand, str | Mapping) or not isinstance(operand, Sequence):
                raise BadFilter(f"{inside}: expected a list of values")
            among = In(field, tuple(check_value(one, inside) for one in operand))
            items.append(among if op == "$in" else Not(among))
        elif op == "$exists":
            if not isinstance(operand, bool):
                raise BadFilter(f"{inside}: expected true or false, got {operand!r}")
            missing = Compare(field, "==", None)
            items.append(Not(missing) if operand else missing)
        elif op == "$not":
            items.append(Not(_field_condition(field, operand, inside, depth + 1)))
        else:
            known = f"operators are {', '.join(_FIELD_OPS)}"
            raise BadFilter(f"{inside}: there is no such operator; {known}")
    return conjunction(items)


def parse_expression(source: str) -> Node:
    """The syntax tree of one expression; an error raises `BadFilter` with its column."""
    if len(source) > MAX_LENGTH:
        raise BadFilter(f"the filter has {len(source)} characters, at most {MAX_LENGTH} are read")
    parser = _Parser(source)
    node = parser.expression(0)
    if parser.token.kind != "end":
        parser.fail(f"expected and, or, or the end, got {parser.token.text!r}")
    return node


class _Parser:
    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens = self._tokenize()
        self.position = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.position]

    def fail(self, problem: str, at: int | None = None) -> NoReturn:
        """Raise `BadFilter` with the line, the column and a caret under it."""
        at = self.token.at if at is None else at
        start = self.source.rfind("\n", 0, at) + 1
        line = self.source[start:].split("\n", 1)[0]
        number, column = self.source.count("\n", 0, at) + 1, at - start
        place = f"line {number}, column {column + 1}" if "\n" in self.source else f"{column + 1}"
        if not place.startswith("line"):
            place = f"column {place}"
        cut = max(0, column - 60)
        shown = line[cut : cut + 100]
        raise BadFilter(f"filter, {place}: {problem}\n  {shown}\n  {' ' * (column - cut)}^")

    def expression(self, depth: int) -> Node:
        items = [self._conjunction(depth)]
        while self._keyword("or"):
            items.append(self._conjunction(depth))
        return disjunction(items)

    def _conjunction(self, depth: int) -> Node:
        items = [self._negation(depth)]
        while self._keyword("and"):
            items.append(self._negation(depth))
        return conjunction(items)

    def _negation(self, depth: int) -> Node:
        if depth > _MAX_NESTING:
            self.fail("nested too deeply")
        if self._keyword("not"):
            return Not(self._negation(depth + 1))
        if self._mark("("):
            inner = self.expression(depth + 1)
            if not self._mark(")"):
                self.fail(f"expected ), got {self._shown()}")
            return inner
        return self._comparison()

    def _comparison(self) -> Node:
        field = self._field()
        at, op = self.token.at, self.token.text
        if self.token.kind == "op":
            self.position += 1
            value = self._value()
            try:
                return compare(field, op, value, str(field))
            except BadFilter as error:
                self.fail(str(error), at)
        negated = self._keyword("not")
        if self._keyword("in"):
            among = In(field, self._values())
            return Not(among) if negated else among
        self.fail(f"expected a comparison (== != < <= > >= in) after {field}, got {self._shown()}")

    def _field(self) -> Field:
        token = self.token
        if token.kind == "quoted":
            self.position += 1
            return Field(self._unicode(token.text[1:-1].replace("``", "`")))
        if token.kind != "name" or token.text.lower() in _KEYWORDS:
            hint = " (tag names have no quotes, or backticks)" if token.kind == "string" else ""
            self.fail(f"expected a tag's name, got {self._shown()}{hint}")
        if token.text.startswith("$"):
            if token.text[1:] not in BUILTIN_FIELDS:
                known = ", ".join(f"${name}" for name in BUILTIN_FIELDS)
                self.fail(f"there is no field {token.text}; the fields are {known}")
            self.position += 1
            return Field(token.text[1:], builtin=True)
        self.position += 1
        return Field(self._unicode(token.text))

    def _values(self) -> tuple[Scalar, ...]:
        if not self._mark("["):
            self.fail(f"expected [ after in, got {self._shown()}")
        values: list[Scalar] = []
        while not self._mark("]"):
            values.append(self._value())
            if not self._mark(",") and self.token.text != "]":
                self.fail(f"expected , or ], got {self._shown()}")
        return tuple(values)

    def _value(self) -> Scalar:
        token = self.token
        if token.kind == "string":
            value: Scalar = self._unescape(token)
        elif token.kind == "number":
            value = float(token.text)
        elif token.kind == "name" and token.text.lower() in _WORDS:
            value = _WORDS[token.text.lower()]
        else:
            hint = " (strings stand in quotes)" if token.kind == "name" else ""
            self.fail(f"expected a value, got {self._shown()}{hint}")
        try:
            value = check_value(value, "value")
        except BadFilter as error:
            self.fail(str(error))
        self.position += 1
        return value

    def _unescape(self, token: _Token) -> str:
        def one(escape: re.Match[str]) -> str:
            code = escape[1]
            if code[0] == "u" and len(code) == 5:
                return chr(int(code[1:], 16))
            if code not in _ESCAPES:
                self.fail(f"unknown escape \\{code}", token.at + 1 + escape.start())
            return _ESCAPES[code]

        text = _ESCAPE.sub(one, token.text[1:-1])
        # JSON writes a character beyond the basic plane as two \u escapes.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

    def _unicode(self, name: str) -> str:
        try:
            name.encode()
        except UnicodeEncodeError:
            self.fail(f"{name!r} is not valid Unicode")
        return name

    def _keyword(self, word: str) -> bool:
        is_next = self.token.kind == "name" and self.token.text.lower() == word
        self.position += is_next
        return is_next

    def _mark(self, mark: str) -> bool:
        is_next = self.token.kind == "mark" and self.token.text == mark
        self.position += is_next
        return is_next

    def _shown(self) -> str:
        text = self.token.text
        return "the end" if self.token.kind == "end" else repr(text[:40])

    def _tokenize(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while at < len(self.source):
            match = _TOKEN.match(self.source, at)
            if not match:
                self._bad_character(at)
            assert match.lastgroup is not None  # noqa: S101
            if match.lastgroup != "space":
                tokens.append(_Token(match.lastgroup, match[0], at))
            at = match.end()
        tokens.append(_Token("end", "", at))
        return tokens

    def _bad_character(self, at: int) -> NoReturn:
        character = self.source[at]
        if character in "'\"`":
            self.fail(f"the {character} is never closed", at)
        hint = f" ({_HINTS[character]})" if character in _HINTS else ""
        self.fail(f"unexpected {character!r}{hint}", at)
