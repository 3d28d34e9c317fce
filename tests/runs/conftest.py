"""Small real data for real runs."""

from __future__ import annotations

import io

import pytest
from docarray import DocList
from PIL import Image

from cliptune.documents import ClipDoc

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "purple", "orange")


def picture(colour: str, side: int = 48, border: str = "grey") -> bytes:
    image = Image.new("RGB", (side, side), border)
    image.paste(Image.new("RGB", (side - 16, side - 16), colour), (8, 8))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def colour_docs() -> DocList[ClipDoc]:
    """Two pictures each of eight plain colours with their titles."""
    return DocList[ClipDoc](
        [
            ClipDoc(
                id=f"{colour}-{border}",
                text=f"a {colour} square",
                image=picture(colour, border=border),
            )
            for colour in COLOURS
            for border in ("grey", "brown")
        ]
    )
