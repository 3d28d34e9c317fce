"""A hook of mkdocs: the reference of the command line, made from the Typer app itself.

It takes the place of `<!-- commands -->` in a page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the reference where the page asks for it."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown


def reference() -> str:
    """Every command of `cliptune` with its arguments and options, as Markdown."""
    from cliptune.cli.app import app

    return "\n".join(_lines(typer.main.get_command(app), "cliptune"))


def _lines(command: Any, name: str) -> Iterator[str]:
    """A command's section, and after it those of its own commands.

    `command` is Typer's own kind of click command, for which there is no public type.
    """
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    options = [parameter for parameter in shown if parameter.param_type_name == "option"]
    inner = {n: c for n, c in getattr(command, "commands", {}).items() if not c.hidden}

    yield f"## {name}\n"
    yield f"{_text(command.help)}\n"
    usage = [name, "[OPTIONS]" if options else "", *map(_placeholder, arguments)]
    usage += ["COMMAND …"] if inner else []
    yield f"```\n{' '.join(filter(None, usage))}\n```\n"
    if arguments:
        yield "| Argument | Meaning |\n| --- | --- |"
        yield from (f"| `{_placeholder(one)}` | {_meaning(one)} |" for one in arguments)
        yield ""
    if options:
        yield "| Option | Meaning |\n| --- | --- |"
        yield from (f"| {_spelling(one)} | {_meaning(one)} {_default(one)} |" for one in options)
        yield ""
    if inner:
        yield "| Command | What it does |\n| --- | --- |"
        for inner_name, inner_command in inner.items():
            full = f"{name} {inner_name}"
            about = _cell(_text(inner_command.help).split("\n\n")[0])
            yield f"| [`{full}`](#{full.replace(' ', '-')}) | {about} |"
        yield ""
    if example := (command.epilog or "").removeprefix("Example: ").removeprefix("Start with: "):
        yield f"Example:\n\n```bash\n{example}\n```\n"
    for inner_name, inner_command in inner.items():
        yield from _lines(inner_command, f"{name} {inner_name}")


def _placeholder(argument: Any) -> str:
    name = argument.metavar or argument.name.rstrip("_").upper()
    name += "…" if argument.nargs == -1 else ""
    return name if argument.required else f"[{name}]"


def _spelling(option: Any) -> str:
    names = [f"`{name}`" for name in option.opts]
    if option.secondary_opts:
        return ", ".join(names) + " / " + ", ".join(f"`{name}`" for name in option.secondary_opts)
    return ", ".join(names)


def _default(option: Any) -> str:
    value = option.default
    if option.required:
        return "Required."
    if callable(value) or value is None or value in ([], (), False):
        return ""
    if option.is_flag:
        return f"Default: `{option.opts[0]}`."
    return f"Default: `{getattr(value, 'value', value)}`."


def _meaning(parameter: Any) -> str:
    """Its help, its bounds, and the environment variable that gives it."""
    words = [_cell(_text(parameter.help))] if parameter.help else []
    bounds = {"at least": parameter.min, "at most": parameter.max}
    if given := [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]:
        words.append(f"{', '.join(given).capitalize()}.")
    if getattr(parameter, "multiple", False):
        words.append("May be given several times.")
    if parameter.envvar:
        words.append(f"Environment: `{parameter.envvar}`.")
    return " ".join(words)


def _text(help_text: str | None) -> str:
    """A help text as Markdown: of its paragraphs, and without Rich's marks."""
    text = re.sub(r"(?<!\\)\[/?[a-z ]+\]", "", help_text or "").replace("\\[", "[")
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    return "\n\n".join(re.sub(r"<(?=\w)", "&lt;", part) for part in paragraphs if part)


def _cell(text: str) -> str:
    return text.replace("\n\n", " ").replace("|", "\\|").replace("*", "\\*")
