"""The built-in catalogue: an invented shop's range of drawn products.

Its pictures are made by code, so that the first command needs no download; see `MODEL_CARD.md`
of the built-in model for what each part is used for.
"""

from cliptune.demo.catalogue.dataset import CATALOGUE_NAMES, load_catalogue
from cliptune.demo.catalogue.products import Product, is_held_out, plain_products
from cliptune.demo.catalogue.render import render

__all__ = [
    "CATALOGUE_NAMES",
    "Product",
    "is_held_out",
    "load_catalogue",
    "plain_products",
    "render",
]
