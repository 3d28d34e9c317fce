"""How each kind of product is drawn: one function a kind, of the kind's name."""

from collections.abc import Callable

from cliptune.demo.catalogue.pen import Pen
from cliptune.demo.catalogue.shapes import accessories, bags, bottoms, shoes, tops

_DRAWN: tuple[Callable[[Pen], None], ...] = (
    *tops.SHAPES,
    *bottoms.SHAPES,
    *shoes.SHAPES,
    *bags.SHAPES,
    *accessories.SHAPES,
)
SHAPES = {shape.__name__: shape for shape in _DRAWN}
