"""`cliptune fetch`: an artifact from elsewhere, checked and put in place whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cliptune.cli.terminal import console, progress_bar


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(epilog="Example: cliptune fetch s3://models/tuned.zip models/tuned --digest 3f2a…")(
        fetch
    )


def fetch(
    source: Annotated[
        str, typer.Argument(help="A zip at s3://, gs:// or https://, or a path of an artifact.")
    ],
    target: Annotated[Path, typer.Argument(help="The folder that it is to be.")],
    digest: Annotated[
        str,
        typer.Option(
            help="The model's, as metadata.yml in the artifact has it; or sha256: and what "
            "sha256sum prints of checksums.sha256 in it, for all files."
        ),
    ],
) -> None:
    """Bring an artifact to this machine, if it is the one that is meant.

    The folder is there whole or not at all, whatever happens meanwhile. Where it is there already,
    nothing is fetched. Who you are is taken from where the store's own tools take it, such as
    AWS_ACCESS_KEY_ID; AWS_ENDPOINT_URL names another S3 than Amazon's.
    """
    from cliptune.models.fetching import fetch_artifact

    with progress_bar() as show:
        artifact = fetch_artifact(
            source, target, digest, tell=lambda done, total: show("bytes", done, total)
        )
    console.print(
        f"[bold]{target}[/]: a tuned {artifact.metadata['base_model']}, digest {artifact.digest}",
        soft_wrap=True,
    )
