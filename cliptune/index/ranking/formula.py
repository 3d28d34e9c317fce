"""`formula`: a new score from the old one and from numbers among the tags.

    score + 0.1 * log(1 + default(sales, 0)) - 0.05 * sold_out

    expression := term (('+' | '-') term)*
    term := factor (('*' | '/') factor)*
    factor := '-' factor | number | `score` | tag | function '(' expression, … ')' | '(' … ')'

`score` is the match's own score. A tag is named as in filters (but for `-`, which subtracts: names
with it stand in backticks); its value is a number, or a boolean as 1 or 0. Anything else, also a
list, counts as missing, and what is computed of something missing is missing too, but for
`default(tag, value)`. Where the result is missing, infinite or undefined (the logarithm of 0), the
match comes after all the others, in the order of its nearness, without a new score.

Functions: `abs`, `exp`, `log` (natural), `log10`, `sqrt`, `min`, `max`, `pow`, `default`.

Nothing else is read, and nothing is evaluated but this; numbers are 64-bit floats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from cliptune.errors import BadInput, near_matches
from cliptune.index.tags import check_path

MAX_LENGTH = 1000
MAX_DEPTH = 32
MAX_TAGS = 16
Numbers = NDArray[np.float64]
SCORE = "score"


def _default(value: Numbers, instead: Numbers) -> Numbers:
    return np.where(np.isnan(value), instead, value)


_FUNCTIONS: dict[str, tuple[int, int, Callable[..., Numbers]]] = {
    "abs": (1, 1, np.abs),
    "exp": (1, 1, np.exp),
    "log": (1, 1, np.log),
    "log10": (1, 1, np.log10),
    "sqrt": (1, 1, np.sqrt),
    "min": (2, 8, lambda *given: np.minimum.reduce(np.broadcast_arrays(*given))),
    "max": (2, 8, lambda *given: np.maximum.reduce(np.broadcast_arrays(*given))),
    "pow": (2, 2, np.power),
    "default": (2, 2, _default),
}
"""By name: the fewest and the most arguments, and what is computed of them."""
_OPERATORS: dict[str, Callable[..., Numbers]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
}
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<quoted>`(?:[^`]|``)+`)
      | (?P<name>[^\W\d]\w*(?:\.\w+)*)
      | (?P<mark>[-+*/(),])""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Number:
    """A number."""

    value: float

    def of(self, values: Mapping[str | None, Numbers]) -> Numbers:
        """Itself."""
        return np.float64(self.value)  # type: ignore[return-value] # it broadcasts as an array


@dataclass(frozen=True)
class Name:
    """A tag, or (None) the score."""

    path: str | None

    def of(self, values: Mapping[str | None, Numbers]) -> Numbers:
        """Its value of each match."""
        return values[self.path]


@dataclass(frozen=True)
class Call:
    """A function or an operator with its arguments."""

    function: Callable[..., Numbers]
    arguments: tuple[Node, ...]

    def of(self, values: Mapping[str | None, Numbers]) -> Numbers:
        """What is computed of the arguments."""
        return self.function(*(one.of(values) for one in self.arguments))


Node = Number | Name | Call


@dataclass(frozen=True)
class Formula:
    """A formula that was read."""

    node: Node
    tags: tuple[str, ...]
    """The tags that it names, by their paths."""

    @classmethod
    def parse(cls, source: str) -> Formula:
        """Read one.

        Raises:
            BadInput: it isn't one, or is too long; the message names the column.
        """
        if not isinstance(source, str):
            raise BadInput(f"formula: expected a text such as 'score + sales', got {source!r:.80}")
        if len(source) > MAX_LENGTH:
            raise BadInput(f"formula: {len(source)} characters, at most {MAX_LENGTH} are read")
        node = _Parser(source).whole()
        tags = tuple(dict.fromkeys(path for path in _names(node) if path is not None))
        if len(tags) > MAX_TAGS:
            raise BadInput(f"formula: it names {len(tags)} tags, at most {MAX_TAGS} are read")
        return cls(node, tags)

    def of(self, scores: Numbers, values: Mapping[str, Numbers]) -> Numbers:
        """The new scores; NaN where there is none.

        Args:
            scores: float64 [N]
            values: by tag float64 [N], NaN where it is missing.
        """
        named: dict[str | None, Numbers] = {None: scores}
        named.update((path, values[path]) for path in self.tags)
        with np.errstate(all="ignore"):
            computed = self.node.of(named)
        computed = np.broadcast_to(computed, scores.shape)
        return np.where(np.isfinite(computed), computed, np.nan)


def _names(node: Node) -> Iterator[str | None]:
    if isinstance(node, Name):
        yield node.path
    elif isinstance(node, Call):
        for one in node.arguments:
            yield from _names(one)


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens: list[tuple[str, str, int]] = []
        at = 0
        while at < len(source):
            match = _TOKEN.match(source, at)
            if match is None or match.lastgroup is None:
                self._fail(f"unexpected {source[at]!r}", at)
            if match.lastgroup != "space":
                self._tokens.append((match.lastgroup, match[0], at))
            at = match.end()
        self._tokens.append(("end", "the end", at))
        self._position = 0

    def whole(self) -> Node:
        node = self._sum(0)
        kind, text, at = self._token
        if kind != "end":
            self._fail(f"expected an operator or the end, got {text!r}", at)
        return node

    @property
    def _token(self) -> tuple[str, str, int]:
        return self._tokens[self._position]

    def _fail(self, problem: str, at: int) -> NoReturn:
        cut = max(0, at - 60)
        shown = self._source[cut : cut + 100].replace("\n", " ")
        raise BadInput(f"formula, column {at + 1}: {problem}\n  {shown}\n  {' ' * (at - cut)}^")

    def _mark(self, marks: str) -> str:
        """The next token, if it is one of these marks; else nothing."""
        kind, text, _ = self._token
        if kind != "mark" or text not in marks:
            return ""
        self._position += 1
        return text

    def _sum(self, depth: int) -> Node:
        node = self._product(depth)
        while operator := self._mark("+-"):
            node = Call(_OPERATORS[operator], (node, self._product(depth)))
        return node

    def _product(self, depth: int) -> Node:
        node = self._factor(depth)
        while operator := self._mark("*/"):
            node = Call(_OPERATORS[operator], (node, self._factor(depth)))
        return node

    def _factor(self, depth: int) -> Node:
        kind, text, at = self._token
        if depth > MAX_DEPTH:
            self._fail("nested too deeply", at)
        if self._mark("-"):
            return Call(np.negative, (self._factor(depth + 1),))
        if self._mark("("):
            node = self._sum(depth + 1)
            self._close()
            return node
        if kind not in ("number", "quoted", "name"):
            self._fail(f"expected a number, score, a tag or a function, got {text!r}", at)
        self._position += 1
        if kind == "number":
            return Number(self._number(text, at))
        if kind == "quoted":
            return Name(self._path(text[1:-1].replace("``", "`"), at))
        if self._mark("("):
            return self._call(text, at, depth + 1)
        return Name(None if text == SCORE else self._path(text, at))

    def _number(self, text: str, at: int) -> float:
        value = float(text)
        if not np.isfinite(value):
            self._fail(f"{text} is beyond 64-bit floats", at)
        return value

    def _path(self, text: str, at: int) -> str:
        try:
            return check_path("formula", text)
        except BadInput as error:
            self._fail(str(error), at)

    def _call(self, name: str, at: int, depth: int) -> Node:
        if name not in _FUNCTIONS:
            self._fail(f"there is no function {name}; {near_matches(name, list(_FUNCTIONS))}", at)
        arguments = [self._sum(depth)]
        while self._mark(","):
            arguments.append(self._sum(depth))
        self._close()
        least, most, function = _FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            expected = f"{least}" if least == most else f"{least} to {most}"
            self._fail(f"{name} takes {expected} arguments, got {len(arguments)}", at)
        return Call(function, tuple(arguments))

    def _close(self) -> None:
        if not self._mark(")"):
            _, text, at = self._token
            self._fail(f"expected ), got {text!r}", at)
