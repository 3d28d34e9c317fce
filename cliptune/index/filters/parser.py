"""Filter expressions to syntax trees: a tokenizer and a recursive-descent parser.

Grammar (`filters` has the language's manual)::

    expression := conjunction ('or' conjunction)*
    conjunction := negation ('and' negation)*
    negation := 'not' negation | '(' expression ')' | comparison
    comparison := field (op value | ['not'] 'in' '[' [value (',' value)* [',']] ']')
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from cliptune.errors import BadFilter
from cliptune.index.filters.language import (
    BUILTIN_FIELDS,
    Field,
    In,
    Node,
    Not,
    Scalar,
    check_value,
    compare,
    conjunction,
    disjunction,
)

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
        def one(found: re.Match[str]) -> str:
            code = found[1]
            if code[0] == "u" and len(code) == 5:
                return chr(int(code[1:], 16))
            if code not in _ESCAPES:
                self.fail(f"unknown escape \\{code}", token.at + 1 + found.start())
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
        found = self.token.kind == "name" and self.token.text.lower() == word
        self.position += found
        return found

    def _mark(self, mark: str) -> bool:
        found = self.token.kind == "mark" and self.token.text == mark
        self.position += found
        return found

    def _shown(self) -> str:
        text = self.token.text
        return "the end" if self.token.kind == "end" else repr(text[:40])

    def _tokenize(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while at < len(self.source):
            found = _TOKEN.match(self.source, at)
            if not found:
                self._bad_character(at)
            assert found.lastgroup is not None  # noqa: S101
            if found.lastgroup != "space":
                tokens.append(_Token(found.lastgroup, found[0], at))
            at = found.end()
        tokens.append(_Token("end", "", at))
        return tokens

    def _bad_character(self, at: int) -> NoReturn:
        character = self.source[at]
        if character in "'\"`":
            self.fail(f"the {character} is never closed", at)
        hint = f" ({_HINTS[character]})" if character in _HINTS else ""
        self.fail(f"unexpected {character!r}{hint}", at)
