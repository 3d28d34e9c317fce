"""Commands whose modules are imported when they are run: `--help` lists them without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from types import CodeType
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from cliptune.errors import CliptuneError
from cliptune.extras import stubbed


def lazy_group(modules: Mapping[str, str], headings: Mapping[str, str]) -> type[TyperGroup]:
    """The class of a group whose commands are imported when they are run.

    Args:
        modules: by module (which has `register(app: typer.Typer)`): the commands that it
            registers, separated by spaces, in the order that the help has them. The docstring of
            the function `wise_ft` is the help of the command `wise-ft`.
        headings: by package: what stands above the commands of its modules.
    """

    class Group(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = Commands(modules, self.rich_markup_mode)

        def format_help(self, *args: Any) -> None:
            """List the commands by their docstrings: none is imported."""
            loaded, self.commands = self.commands, dict(_outlines(modules, headings))
            try:
                with _less_of_rich():
                    super().format_help(*args)
            finally:
                self.commands = loaded

    return Group


class Commands(MutableMapping[str, Any]):
    """Click's commands by their names, each made when it is asked for."""

    def __init__(self, modules: Mapping[str, str], markup: Any) -> None:
        """Take the commands of each module, and Typer's `rich_markup_mode`."""
        self._modules = {
            name: module for module, names in modules.items() for name in names.split()
        }
        self._markup = markup
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Import the command's module."""
        if name not in self._made:
            app = typer.Typer(rich_markup_mode=self._markup, pretty_exceptions_enable=False)
            import_module(self._modules[name]).register(app)
            self._made |= typer.main.get_group(app).commands
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        """Add one that is made already."""
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        """Leave one out."""
        del self._modules[name]

    def __iter__(self) -> Iterator[str]:
        """All names, in order; nothing is imported."""
        return iter(dict.fromkeys((*self._modules, *self._made)))

    def __len__(self) -> int:
        """How many there are."""
        return len(list(iter(self)))


def _outlines(
    modules: Mapping[str, str], headings: Mapping[str, str]
) -> Iterator[tuple[str, TyperCommand]]:
    """Each command with its help alone, read from the compiled module."""
    for module, names in modules.items():
        spec = find_spec(module)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            raise CliptuneError(f"{module} is not there: install cliptune again")
        code = cast(CodeType, spec.loader.get_code(module))
        functions = {one.co_name: one for one in code.co_consts if isinstance(one, CodeType)}
        for name in names.split():
            function = functions[name.replace("-", "_")]
            docstring = function.co_consts[0]  # None by `python -OO`
            heading = headings.get(module.rpartition(".")[0])
            yield name, TyperCommand(name, help=docstring, rich_help_panel=heading)


@contextmanager
def _less_of_rich() -> Iterator[None]:
    """Have Typer write a help without the Markdown and tracebacks that it imports besides."""
    with stubbed("rich.markdown", Markdown=object), stubbed("rich.traceback", Traceback=object):
        yield
