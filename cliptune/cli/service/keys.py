"""`cliptune keys`: the API keys of a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cliptune.cli.options import of_setting
from cliptune.cli.terminal import console, notices

if TYPE_CHECKING:
    from cliptune.gateway.access.api_keys import Key

File = Annotated[Path, of_setting("api_keys_file", "--file", "-f", own_default=True)]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(group, name="keys")


def keys() -> None:
    """Make, list and revoke a server's API keys."""


group = typer.Typer(callback=keys, no_args_is_help=True)


@group.command(epilog="Example: cliptune keys new shop-web --requests 50 --file keys.txt")
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is: shown in errors and logs.")],
    role: Annotated[
        str, typer.Option(help="search; write: index and delete too; monitor: /metrics; admin.")
    ] = "search",
    requests: Annotated[
        float | None, typer.Option(help="Requests a second at most; default: no limit.")
    ] = None,
    documents: Annotated[
        float | None, typer.Option(help="Texts and pictures a second; default: no limit.")
    ] = None,
    file: File = Path("keys.txt"),
) -> None:
    """Make a key, print it once, and add its digest to the file.

    A running server takes it at once. Several keys of one name are allowed: to change a key, make
    the new one, hand it out, then revoke the old one by its digest.
    """
    from cliptune.gateway.access.api_keys import make_key, new_key

    key = new_key()
    made = make_key(key, name, role, requests, documents)
    lines = _lines(file)
    _write(file, [*lines, made.line()])
    typer.echo(key)
    notices.print(
        f"Its digest is in {file}; the key itself is nowhere else: keep it now.", soft_wrap=True
    )


@group.command("list", epilog="Example: cliptune keys list --file keys.txt")
def list_(file: File = Path("keys.txt")) -> None:
    """Show who has keys, with their roles and limits."""
    table = Table("name", "role", "requests/s", "documents/s", "digest")
    for key in _read(file):
        limits = [f"{value:g}" if value else "–" for value in (key.requests, key.documents)]
        table.add_row(key.name, key.role, *limits, key.digest.hex()[:12])
    console.print(table)


@group.command(epilog="Example: cliptune keys revoke shop-web --file keys.txt")
def revoke(
    name: Annotated[str, typer.Argument(help="A name: all its keys; or the start of a digest.")],
    file: File = Path("keys.txt"),
) -> None:
    """Take keys out of the file; a running server refuses them at once."""
    from cliptune.errors import NotFound
    from cliptune.gateway.access.api_keys import read_keys

    def is_meant(line: str) -> bool:
        return any(
            key.name == name or (len(name) >= 8 and key.digest.hex().startswith(name))
            for key in read_keys(line, str(file))
        )

    _read(file)
    lines = _lines(file)
    kept = [line for line in lines if not is_meant(line)]
    if len(kept) == len(lines):
        raise NotFound(f"{file} has no key {name!r}")
    _write(file, kept)
    console.print(f"revoked: {len(lines) - len(kept)}")


def _read(file: Path) -> list[Key]:
    from cliptune.gateway.access.api_keys import KeyFile, read_keys

    KeyFile(file)
    return read_keys("\n".join(_lines(file)), str(file))


def _lines(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines() if file.exists() else []


def _write(file: Path, lines: list[str]) -> None:
    from cliptune.files import write_text

    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    write_text(file, "".join(f"{line}\n" for line in lines), private=True)
    file.chmod(mode)
