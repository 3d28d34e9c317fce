"""Pictures, and a shop of them, for tests that need a few to tell apart."""

from __future__ import annotations

import base64
import io

from docarray import DocList
from PIL import Image

from cliptune.documents import ClipDoc


def picture(colour: tuple[int, int, int] | int, size: tuple[int, int] = (40, 30)) -> bytes:
    """A PNG by its colour, or by a number: each number's is another."""
    if isinstance(colour, int):
        colour = ((37 * colour + 20) % 256, (91 * colour + 60) % 256, (153 * colour + 90) % 256)
    buffer = io.BytesIO()
    image = Image.new("RGB", size, colour)
    image.paste(tuple(255 - c for c in colour), (5, 5, 20, 15))  # something to tell apart
    image.save(buffer, "PNG")
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


COLOURS = {
    "red": (220, 20, 20),
    "green": (10, 160, 30),
    "blue": (20, 40, 210),
    "yellow": (240, 220, 20),
    "black": (5, 5, 5),
    "pink": (250, 130, 190),
}


def shop() -> DocList[ClipDoc]:
    """Six pictures with titles and tags."""
    return DocList[ClipDoc](
        [
            ClipDoc(
                id=f"shop/{name}",
                text=f"{name} thing",
                image=picture(colour),
                tags={"price": 10 * (number + 1), "colour": name, "ean": 4_006_381_333_931},
            )
            for number, (name, colour) in enumerate(COLOURS.items())
        ]
    )
