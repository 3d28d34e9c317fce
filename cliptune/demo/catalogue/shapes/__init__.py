"""How each kind of product is drawn: one function a kind, found by its name."""

from collections.abc import Callable

from cliptune.demo.catalogue.pen import Pen
from cliptune.demo.catalogue.shapes import accessories, bags, bottoms, shoes, tops

SHAPES: dict[str, Callable[[Pen], None]] = {
    **tops.SHAPES,
    **bottoms.SHAPES,
    **shoes.SHAPES,
    **bags.SHAPES,
    **accessories.SHAPES,
}
