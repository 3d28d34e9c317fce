"""The options of all commands that take a table, declared once, and reading tables by them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer
from rich.console import Console

if TYPE_CHECKING:
    from docarray import DocList

    from cliptune.data.summary import DataSummary
    from cliptune.data.tables.columns import CsvOptions
    from cliptune.data.validation import Needs
    from cliptune.documents import ClipDoc

PANEL = "Tables (columns are found by their names where that is clear)"
_OPTIONS: dict[str, tuple[str, str]] = {
    "text_column": ("COLUMN", "The column of titles or queries. Found: title, text, caption, …"),
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
    "id_column": (
        "COLUMN",
        "The column of ids. Found: id; else, and by 'none', ids are the pictures' SHA-256.",
    ),
    "encoding": ("NAME", "Such as cp1252 or utf-16. Default: found, and said."),
    "delimiter": ("CHARACTER", "Between cells: ',', ';', '|' or tab. Default: found."),
    "image_root": ("FOLDER", "What relative picture paths are relative to; default: the table."),
}
_DOWNLOAD = "download"
Command = TypeVar("Command", bound=Callable[..., Any])
notices = Console(stderr=True)


def with_table_options(command: Command) -> Command:
    """Give a command the options of tables; it gets them as `table: CsvOptions`.

    Typer reads a command's signature: the options stand in it where `table` is.
    """
    signature = inspect.signature(command)
    # The class itself is not imported here: what reads tables would make `--help` slow.
    hints = get_type_hints(command, localns={"CsvOptions": Any}, include_extras=True)
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None, typer.Option(metavar=metavar, help=text, rich_help_panel=PANEL)
            ],
        )
        for name, (metavar, text) in _OPTIONS.items()
    ]
    options.append(
        inspect.Parameter(
            _DOWNLOAD,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[
                bool,
                typer.Option(
                    "--download",
                    help="Fetch pictures that are given by http(s) URL, each once.",
                    rich_help_panel=PANEL,
                ),
            ],
        )
    )
    own = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[one.name])
        for one in signature.parameters.values()
        if one.name != "table"
    ]

    @wraps(command)
    def wrapped(**values: Any) -> Any:
        from cliptune.data.tables.columns import CsvOptions

        given = {name: values.pop(name) for name in (*_OPTIONS, _DOWNLOAD)}
        return command(**values, table=CsvOptions(**given, as_flags=True))

    wrapped.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in [*own, *options]}
    return wrapped  # type: ignore[return-value]


def options_of(model: str | Path) -> Mapping[str, Any] | None:
    """How the tables were read that a run, or the artifact at a path, was fine-tuned on."""
    import yaml

    from cliptune.errors import CliptuneError
    from cliptune.models.artifact import is_artifact, open_artifact
    from cliptune.sdk.models import find_artifact

    try:
        path = find_artifact(model)
        if not is_artifact(path):
            return None
        # No tower's weights are checked for it: whoever loads them does.
        config = yaml.safe_load((open_artifact(path, only=()).path / "config.yml").read_text())
    except (CliptuneError, OSError, yaml.YAMLError):
        return None  # a model's name, or one that can't be opened: loading it says why
    kept = config.get("csv_options") if isinstance(config, dict) else None
    return kept if isinstance(kept, dict) else None


def read_searched(
    queries: str, index: str | None, table: CsvOptions, role: str = "", *, readable: bool = False
) -> tuple[DocList[ClipDoc], DocList[ClipDoc]]:
    """Queries, and the pictures that they search (None: their own); says what was understood.

    With `readable`, pictures that can't be decoded are left out, too: for what would stop at one.

    Raises:
        NotFound, BadData: as `read_documents`; or more than a tenth of the pictures can't be read.
    """
    from cliptune.data.pictures.pixels import readable_only
    from cliptune.data.validation import ANSWER, QUERY

    if index is None:
        docs = read(queries, table, f"{role}queries", QUERY | ANSWER)
        docs = readable_only(docs) if readable else docs
        return docs, docs
    query_docs = read(queries, table, f"{role}queries", QUERY)
    index_docs = read(index, table, f"{role}index", ANSWER)
    return query_docs, readable_only(index_docs) if readable else index_docs


def read(data: str, table: CsvOptions, role: str, needs: Needs) -> DocList[ClipDoc]:
    """The documents of `data` that have all of `needs`; says what was understood."""
    from cliptune.data.source import read_documents

    found = read_documents(data, csv_options=table, role=role, needs=needs)
    say(found.summary)
    return found.docs


def say(summary: DataSummary) -> None:
    """Tell on stderr what was understood of a data set."""
    for level, line in summary.lines():
        style = "yellow" if level == "WARNING" else None
        notices.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
