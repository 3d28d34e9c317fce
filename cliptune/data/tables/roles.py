"""Which column of a table is for what: as the user says, or else by name and content."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cliptune.data.pictures.images import SUFFIXES
from cliptune.data.tables.columns import IMAGE_NAMES, TEXT_NAMES, Column, normal
from cliptune.data.tables.options import COLUMN_OPTIONS, PAIR_OPTIONS, CsvOptions, weighted
from cliptune.data.tables.templates import columns_in, with_columns
from cliptune.data.validation import ANYTHING, PICTURE, TEXT
from cliptune.errors import BadData, BadInput, near_matches

_NAMES = {
    "id_column": (("id",),),
    "label_column": (("label",),),
    "image_column": IMAGE_NAMES,
    "text_column": TEXT_NAMES,
}
_SHOWN = 30
NONE = "none"
"""Given for a column: there is none, whatever the columns are called."""
_WHAT = {
    "text_column": "titles",
    "image_column": "pictures",
    "label_column": "labels",
    "id_column": "ids",
}


@dataclass(frozen=True)
class Text:
    """Where titles are: a column, or a template of several."""

    column: str | None = None
    template: str | None = None
    weight: float = 1.0

    def __str__(self) -> str:
        """The column's name or the template, and its weight if that isn't 1."""
        name = self.template or self.column or ""
        return name if self.weight == 1 else f"{name} (weight {self.weight:g})"


@dataclass(frozen=True)
class Roles:
    """What each column is for."""

    texts: tuple[Text, ...] = ()
    """The title's first."""
    image: str | None = None
    template: str | None = None
    label: str | None = None
    id: str | None = None
    weight: str | None = None
    grade: str | None = None
    negative: str | None = None
    """The column of wrong answers."""
    negatives_are_pictures: bool = False
    """Whether it holds pictures rather than ids."""
    id_is_given: bool = False
    """Whether the user said that this column holds the ids."""
    tags: tuple[str, ...] = ()

    def described(self) -> dict[str, str]:
        """What was taken for what, in words."""
        known = {
            "titles": ", ".join(map(str, self.texts)) or None,
            "pictures": self.template or self.image,
            "labels": self.label,
            "ids": self.id,
            "weights": self.weight,
            "grades": self.grade,
            "wrong answers": self.negative,
            "tags": ", ".join(self.tags) or None,
        }
        return {what: column for what, column in known.items() if column is not None}


def find_column(
    name: str, columns: Collection[str], where: str, options: CsvOptions, option: str
) -> str:
    """The column that a user means by `name`: of exactly that name, or else but for case.

    Raises:
        BadData: there is none, or there are several; the message lists them.
    """
    name = name.strip()
    if name in columns:
        return name
    alike = [column for column in columns if normal(column) == normal(name)]
    if len(alike) > 1:
        raise BadData(
            f"{where}: {options.option(option)} {name!r} may be {_listed(alike, ' or ')}: "
            "give it as it is written there"
        )
    if not alike:
        raise BadData(
            f"{where} has no column {name!r} ({options.option(option)}): "
            f"{near_matches(name, columns)} (its columns: {_shown(columns)})"
        )
    return alike[0]


def choose_roles(
    where: str, columns: Mapping[str, Column], options: CsvOptions, needs: Collection[str]
) -> Roles:
    """Which column is what: as `options` say, or else by name and content.

    Args:
        where: names the table in errors.
        columns: of the table, by name, in their order.
        options: what the user said, and the run that is looked at.
        needs: what the task needs of each row (see `cliptune.data.validation`); a column that was
            named but isn't needed may be missing, as one table has titles and another pictures.

    Raises:
        BadData: a column that was named is missing, several may be meant, or what is needed can't
            be found; the message lists the columns and the option that settles it.
    """
    needed = {
        "text_column": TEXT in needs or not needs,
        "image_column": PICTURE in needs or not needs,
        "label_column": True,
        "id_column": PICTURE in needs or not needs,
    }
    chosen: dict[str, str] = {}
    refused: set[str] = set()
    more: list[Text] = []
    for option in COLUMN_OPTIONS:
        name, kept = _first_named(options, option), _first_named(options.kept, option)
        if option == "text_column" and options.text_template:
            name = kept = None  # the columns come after it
        if name == NONE and _alike(NONE, columns) is None:
            refused.add(option)
        elif name and needed[option]:
            chosen[option] = _column(name, columns, where, options, option)
        elif alike := _alike_weighted(name or kept or "", columns):
            chosen[option] = alike
    group = _chosen_group(where, columns, options)
    if group is not None:
        chosen["label_column"] = group
    pairs = _chosen_of_pairs(where, columns, options, is_needed=needed["text_column"])
    text_template = _chosen_template(
        where, columns, options, "text_template", needed["text_column"]
    )
    if text_template is not None:
        chosen.pop("text_column", None)
        refused.add("text_column")
    if text_template is not None or "text_column" in chosen:
        more = _other_texts(where, columns, options, has_template=text_template is not None)
    template = _chosen_template(where, columns, options, "image_template", needed["image_column"])
    if template is not None:
        chosen.pop("image_column", None)
        refused.add("image_column")

    def free() -> dict[str, Column]:
        taken = {*chosen.values(), *pairs.values()}
        return {name: one for name, one in columns.items() if name not in taken}

    def is_open(option: str) -> bool:
        return option not in chosen and option not in refused

    for option, tiers in _NAMES.items():
        if is_open(option) and (name := _by_name(where, free(), options, option, tiers)):
            chosen[option] = name
    if is_open("image_column") and (name := _by_content(where, free(), options)):
        chosen["image_column"] = name
    # Two columns, one of them of pictures: the other one is of titles, whatever it is called.
    is_pair = len(free()) == 1 and len(columns) == 2 and chosen.keys() == {"image_column"}
    if is_pair and is_open("text_column") and not options.names_columns:
        [(name, other)] = free().items()
        if other.plain < other.filled:
            chosen["text_column"] = name
    _check_found(where, columns, chosen, template, text_template, options, needs)
    negative = pairs.get("negative_column")
    if negative and columns[negative].is_pictures and not chosen.get("image_column"):
        raise BadData(
            f"{where}: {options.option('negative_column')} {negative!r} holds pictures, and those "
            "of the rows are no column: name the wrong answers' ids"
        )
    used = {*chosen.values(), *(one.column for one in more), negative} - {group}
    texts = more
    if "text_column" in chosen:
        weight = _weight_of(chosen["text_column"], options, columns)
        texts = [Text(chosen["text_column"], weight=weight), *more]
    elif text_template is not None:
        texts = [Text(template=text_template), *more]
    return Roles(
        texts=tuple(texts),
        image=chosen.get("image_column"),
        template=template,
        label=chosen.get("label_column"),
        id=chosen.get("id_column"),
        weight=pairs.get("weight_column"),
        grade=pairs.get("grade_column"),
        negative=negative,
        negatives_are_pictures=negative is not None and columns[negative].is_pictures,
        id_is_given=bool(options.id_column),
        tags=tuple(name for name in columns if name not in used),
    )


def _first_named(options: CsvOptions | None, option: str) -> str | None:
    """The column that `options` have for `option`; of several columns of titles the first."""
    if options is None:
        return None
    if option == "text_column":
        return next(iter(options.text_columns), None)
    value: str | None = getattr(options, option)
    return value


def _column(
    name: str, columns: Collection[str], where: str, options: CsvOptions, option: str
) -> str:
    """`find_column`, of a name that may have a weight."""
    if option == "text_column" and _alike(name, columns) is None:
        name, _ = weighted(name)
    return find_column(name, columns, where, options, option)


def _alike_weighted(name: str, columns: Collection[str]) -> str | None:
    return _alike(name, columns) or _alike(weighted(name)[0], columns)


def _weight_of(column: str, options: CsvOptions, columns: Collection[str]) -> float:
    """The weight of the first column of titles."""
    given = options.text_columns or (options.kept.text_columns if options.kept else ())
    is_given = given and _alike(given[0], columns) is None
    return weighted(given[0])[1] if is_given and _alike_weighted(given[0], columns) == column else 1


def _other_texts(
    where: str, columns: Collection[str], options: CsvOptions, *, has_template: bool
) -> list[Text]:
    """The columns of texts after the title's own."""
    first = 0 if has_template else 1
    texts = []
    for name in options.text_columns[first:]:
        weight = 1.0 if _alike(name, columns) else weighted(name)[1]
        texts.append(Text(_column(name, columns, where, options, "text_column"), weight=weight))
    if not options.text_columns and not options.text_template and options.kept:
        kept = options.kept.text_columns[0 if options.kept.text_template else 1 :]
        texts = [
            Text(column, weight=weighted(name)[1])
            for name in kept
            if (column := _alike_weighted(name, columns))
        ]
    return texts


def _chosen_group(where: str, columns: Collection[str], options: CsvOptions) -> str | None:
    """The column of groups, if there is one."""
    if options.group_column:
        return find_column(options.group_column, columns, where, options, "group_column")
    kept = options.kept.group_column if options.kept and not options.label_column else None
    return _alike(kept, columns) if kept else None


def _chosen_of_pairs(
    where: str, columns: Collection[str], options: CsvOptions, *, is_needed: bool
) -> dict[str, str]:
    """The columns of weights, grades and wrong answers, by their options."""
    chosen = {}
    for option in PAIR_OPTIONS:
        name, kept = _first_named(options, option), _first_named(options.kept, option)
        if name and is_needed:
            chosen[option] = find_column(name, columns, where, options, option)
        elif alike := _alike(name or kept or "", columns):
            chosen[option] = alike
    return chosen


def _chosen_template(
    where: str, columns: Mapping[str, Column], options: CsvOptions, option: str, is_needed: bool
) -> str | None:
    """The template that was given, or that the run has, where the table has its columns."""
    given: str | None = getattr(options, option)
    if given and is_needed:
        return _template(given, columns, where, options, option)
    column = getattr(options, option.replace("template", "column"))
    kept: str | None = getattr(options.kept, option) if options.kept and not column else None
    template = given or kept
    if not template or any(_alike(name, columns) is None for name in columns_in(template)):
        return None
    return _template(template, columns, where, options, option)


def _template(
    template: str, columns: Mapping[str, Column], where: str, options: CsvOptions, option: str
) -> str:
    """`template` with the columns' names as the table writes them."""
    names = columns_in(template)
    if not names:
        example = "images/{id}.jpg" if option == "image_template" else "'{brand} {title}'"
        raise BadInput(
            f"{options.option(option)} {template!r} names no column: write one in "
            f"braces, such as {example}"
        )
    missing = [name for name in names if _alike(name, columns) is None]
    if missing:
        raise BadData(
            f"{options.option(option)} {template!r} names a column that {where} does "
            f"not have: {missing[0]!r} (its columns: {_shown(columns)})"
        )
    return with_columns(template, lambda name: _alike(name, columns))


def _alike(name: str, columns: Collection[str]) -> str | None:
    if name.strip() in columns:
        return name.strip()
    alike = [column for column in columns if normal(column) == normal(name)]
    return alike[0] if len(alike) == 1 else None


def _by_name(
    where: str,
    columns: Mapping[str, Column],
    options: CsvOptions,
    option: str,
    tiers: Sequence[Sequence[str]],
) -> str | None:
    for tier in tiers:
        named = [name for name in columns if normal(name) in tier]
        if option == "image_column" and len(named) > 1:
            named = [name for name in named if columns[name].is_pictures] or named
        if option == "image_column" and len(named) == 1 and not columns[named[0]].is_pictures:
            others = [name for name, one in columns.items() if one.is_pictures]
            # `path` or `url` may be a shop's page, where another column has the pictures.
            named = [] if others else named
        if len(named) > 1:
            raise _ambiguous(where, named, options, option)
        if named:
            return named[0]
    return None


def _by_content(where: str, columns: Mapping[str, Column], options: CsvOptions) -> str | None:
    pictures = [name for name, column in columns.items() if column.is_pictures]
    if len(pictures) > 1:
        raise _ambiguous(where, pictures, options, "image_column")
    return pictures[0] if pictures else None


def _ambiguous(where: str, names: Sequence[str], options: CsvOptions, option: str) -> BadData:
    return BadData(
        f"{where}: the column of {_WHAT[option]} may be {_listed(names, ' or ')}: say which by "
        f"{options.option(option)}"
    )


def _check_found(
    where: str,
    columns: Mapping[str, Column],
    chosen: Mapping[str, str],
    template: str | None,
    text_template: str | None,
    options: CsvOptions,
    needs: Collection[str],
) -> None:
    has_texts = text_template is not None or "text_column" in chosen
    has_pictures = template is not None or "image_column" in chosen
    shown = _shown(columns)
    text, image, made = map(options.option, ("text_column", "image_column", "image_template"))
    if needs == ANYTHING and not has_pictures and not has_texts:
        raise BadData(
            f"{where}: none of its columns holds pictures (paths ending in "
            f"{', '.join(SUFFIXES[:4])} …, or URIs), and none is called title or text "
            f"(its columns: {shown}): name them by {text} and {image}"
        )
    if PICTURE in needs and not has_pictures:
        raise BadData(
            f"{where}: none of its columns holds pictures (paths ending in "
            f"{', '.join(SUFFIXES[:4])} …, or URIs; its columns: {shown}): name it by {image}, or "
            f"give {made}"
        )
    if TEXT in needs and not has_texts:
        raise BadData(
            f"{where}: no column of titles was found (its columns: {shown}): name it by {text}"
        )


def _shown(columns: Collection[str]) -> str:
    """The columns of a table, as errors list them: of many, or long ones, a part."""
    names = [name if len(name) <= 60 else f"{name[:60]}…" for name in columns]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _listed(names: Sequence[str], joint: str) -> str:
    return joint.join(map(repr, names))
