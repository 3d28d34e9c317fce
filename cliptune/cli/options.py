"""Options that several commands have: of settings, of tables, and a few more."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar, get_type_hints

import typer
from typer.models import OptionInfo

from cliptune.settings import Settings, about, allowed, bounds, choices, variable_of

P = ParamSpec("P")
R = TypeVar("R")


def of_setting(field: str, *names: str, own_default: bool = False) -> OptionInfo:
    """An option that wins over a setting: its variable, its help and its bounds are the setting's.

    Args:
        field: the setting's name in `Settings`.
        names: how the option is spelled; none: as the command's argument.
        own_default: the command has a default of its own, which its help shows anyway.
    """
    setting = Settings.model_fields[field]
    least, most = bounds(setting)
    values = choices(setting)
    option: OptionInfo = typer.Option(
        *names,
        envvar=variable_of(field),
        help=_help(field, own_default),
        metavar="|".join(values) if values else None,
        min=least,
        max=most,
    )
    return option


def _help(field: str, own_default: bool) -> str:
    setting = Settings.model_fields[field]
    described = about(setting)
    text = f"{described.unit} {described.meaning}".strip()
    if described.allowed:
        text += f": {allowed(setting)}"
    if described.default and not own_default:
        text += f"; default: {described.default}"
    # Links and code of Markdown are for the page of settings.
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "")
    return f"{text[0].upper()}{text[1:]}."


def default_of(field: str) -> str:
    """The default of a setting that is a text."""
    return str(Settings.model_fields[field].default)


SERVER = default_of("search_server")
Address = Annotated[str, of_setting("search_server", "--server")]
TrainAddress = Annotated[str | None, of_setting("server", "--server")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
Searched = Annotated[
    str | None, typer.Option(help="The pictures to search; default: those of --queries.")
]
Labelled = Annotated[str, typer.Option(help="Texts with labels: a CSV or a data set's name.")]
GroupedBy = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TAG",
        help="Also by groups of queries: a column of theirs (numbers make bands), 'words' (how "
        "long they are) or 'weight' (head and tail); may be given several times.",
    ),
]
ResultsThatCount = Annotated[int, typer.Option(min=1, help="k: results that count.")]
BaseModel = Annotated[str, typer.Option(help="See `cliptune models --help`.")]
NameOfRun = Annotated[str | None, typer.Option("--name", help="The run's name.")]
ExperimentOfRun = Annotated[str, typer.Option(help="Its group of runs.")]
ArtifactFolder = Annotated[Path, typer.Option(help="Where the artifact is saved.")]
Detach = Annotated[bool, typer.Option("--detach", help="Start it and return.")]
Tuned = Annotated[Path, typer.Argument(help="A fine-tuned model: a folder or a zip.")]
NewArtifact = Annotated[Path, typer.Option(help="The folder, or the .zip, to write.")]

TABLES = "Tables (columns are found by their names where that is clear)"
TABLE_OPTIONS: dict[str, tuple[str, str]] = {
    "text_column": (
        "COLUMN",
        "The column of titles or queries. Found: title, text, caption, … Several, as in "
        "--text-column title --text-column description:0.3: training draws one by weight.",
    ),
    "text_template": (
        "TEXT",
        "Instead, or before them: a title made of columns, '{brand} {title}, {colour}'.",
    ),
    "image_column": (
        "COLUMN",
        "The column of pictures' paths or data: URIs. Found: image, picture, file_name, …, or by "
        "what is in it.",
    ),
    "image_template": ("PATH", "Instead: a path made of columns, such as 'images/{id}.jpg'."),
    "label_column": (
        "COLUMN",
        "Rows of one label are right answers to each other. Found: label; else those of one title "
        "or one picture are.",
    ),
    "group_column": (
        "COLUMN",
        "Instead: what several rows belong to, such as a product with several pictures; it stays "
        "a tag.",
    ),
    "id_column": (
        "COLUMN",
        "The column of ids. Found: id; else, and by 'none', ids are the pictures' SHA-256.",
    ),
    "weight_column": (
        "COLUMN",
        "How much each pair counts in training: clicks, sales, confidence, above 0; of queries, "
        "how often they are asked. Never found by its name.",
    ),
    "grade_column": (
        "COLUMN",
        "How right each picture is for its title: 0 (wrong) to 3 (fully). Never found by its name.",
    ),
    "negative_column": (
        "COLUMN",
        "Wrong answers that look right: other rows' ids, or pictures' paths. `cliptune mine` "
        "writes one. Never found by its name.",
    ),
    "encoding": ("NAME", "Such as cp1252 or utf-16. Default: found, and said."),
    "delimiter": ("CHARACTER", "Between cells: ',', ';', '|' or tab. Default: found."),
    "sheet": ("NAME", "Of a workbook. Default: the first that isn't empty."),
    "image_root": ("FOLDER", "What relative picture paths are relative to; default: the table."),
}
"""How tables are read, `CsvOptions`: each option's placeholder and help."""
DOWNLOAD = "download"
"""The one of them that is a flag."""
SEVERAL = ("text_column",)
"""Those that can be given several times."""


def with_table_options(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command the options of tables; it gets them as `table: CsvOptions`.

    Typer reads a command's signature: the options stand in it where `table` is.
    """
    # The class itself is not imported here: what reads tables would make `--help` slow.
    hints = get_type_hints(command, localns={"CsvOptions": object}, include_extras=True)
    signature = inspect.signature(command)
    own = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[one.name])
        for one in signature.parameters.values()
        if one.name != "table"
    ]
    parameters = [*own, *_table_parameters()]

    @wraps(command)
    def wrapped(*args: P.args, **values: P.kwargs) -> R:
        from cliptune.data.tables.options import CsvOptions

        given = {name: values.pop(name) for name in (*TABLE_OPTIONS, DOWNLOAD)}
        values["table"] = replace(CsvOptions.parse(given), as_flags=True)
        return command(*args, **values)

    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in parameters}
    return wrapped


def _table_parameters() -> list[inspect.Parameter]:
    texts = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                list[str] | None if name in SEVERAL else str | None,
                typer.Option(metavar=metavar, help=text, rich_help_panel=TABLES),
            ],
        )
        for name, (metavar, text) in TABLE_OPTIONS.items()
    ]
    download = typer.Option(
        "--download",
        help="Fetch pictures that are given by http(s) URL, each once.",
        rich_help_panel=TABLES,
    )
    flag = inspect.Parameter(
        DOWNLOAD,
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, download],
    )
    return [*texts, flag]


def table_flags(options: Mapping[str, object]) -> list[str]:
    """Options of tables by name, as a command is given them."""
    flags: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, list | tuple) else [value]:
            flags += [flag] if one is True else [flag, str(one)]
    return flags
