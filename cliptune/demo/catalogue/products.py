"""Products and their titles: the plain stream, the shop's range, and what is held out."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from cliptune.demo.catalogue.attributes import (
    BRANDS,
    COLOURS,
    KINDS,
    MARKS,
    PATTERNS,
    RGB,
    TRADE_COLOURS,
    Kind,
)

VARIANTS = 3
_HELD_OUT_PART = 4
"""One in so many looks (kind, colour, pattern) is kept for evaluation."""


@dataclass(frozen=True)
class Product:
    """One product: its look, its title, and the seed of what its pictures vary in."""

    title: str
    kind: str
    colour: str
    """The plain name of its main colour."""
    rgb: RGB
    accent: RGB
    """The second colour of its pattern and trimmings."""
    pattern: str
    gender: str
    mark: str
    ink: RGB
    seed: int
    brand: str = ""
    trade_colour: str = ""
    price: float = 0.0
    studio: bool = False
    """Pictures of the shop's range are framed more calmly than those of the plain stream."""

    @property
    def look(self) -> tuple[str, str, str]:
        """What evaluation products may not share with training ones: kind, colour, pattern."""
        return self.kind, self.colour, self.pattern


def is_held_out(product: Product) -> bool:
    """Whether this look is kept for evaluation: a rule on its hash, the same everywhere."""
    digest = hashlib.sha256("/".join(product.look).encode()).digest()
    return digest[0] % _HELD_OUT_PART == 0


def plain_products(seed: int) -> Iterator[Product]:
    """Endless products in plain words, none of a held-out look."""
    rng = random.Random(f"plain {seed}")
    while True:
        product = _plain_product(rng)
        if not is_held_out(product):
            yield product


def range_products(seed: int, *, held_out: bool) -> Iterator[Product]:
    """Endless products of the shop, all of held-out looks or none; titles do not repeat."""
    rng = random.Random(f"range {seed}")
    seen: set[str] = set()
    while True:
        product = _range_product(rng)
        if is_held_out(product) == held_out and product.title not in seen:
            seen.add(product.title)
            yield product


def _plain_product(rng: random.Random) -> Product:
    kind = rng.choice(KINDS)
    colour = rng.choice(list(COLOURS))
    pattern = rng.choice(kind.patterns)
    gender = rng.choice(kind.genders)
    accent = _accent(rng, COLOURS[colour])
    return Product(
        title=_plain_title(rng, kind, colour, pattern, gender),
        kind=kind.name,
        colour=colour,
        rgb=_jitter(rng, COLOURS[colour], 14),
        accent=accent,
        pattern=pattern,
        gender=gender,
        mark=rng.choice(MARKS),
        ink=_accent(rng, COLOURS[colour]),
        seed=rng.getrandbits(48),
    )


def _range_product(rng: random.Random) -> Product:
    kind = rng.choice(KINDS)
    trade_colour = rng.choice(list(TRADE_COLOURS))
    colour, rgb = TRADE_COLOURS[trade_colour]
    pattern = rng.choice(kind.patterns)
    gender = rng.choice(kind.genders)
    brand = rng.choice(BRANDS)
    owner = {"men": "Men's", "women": "Women's", "kids": "Kids'"}[gender]
    words = [owner, trade_colour, PATTERNS[pattern][1], rng.choice(kind.trade)]
    return Product(
        title=" ".join([brand.name, *filter(None, words)]),
        kind=kind.name,
        colour=colour,
        rgb=rgb,
        accent=_accent(rng, rgb),
        pattern=pattern,
        gender=gender,
        mark=brand.mark,
        ink=brand.ink,
        seed=rng.getrandbits(48),
        brand=brand.name,
        trade_colour=trade_colour,
        price=rng.randint(*kind.price) - 0.05,
        studio=True,
    )


def _plain_title(rng: random.Random, kind: Kind, colour: str, pattern: str, gender: str) -> str:
    noun = rng.choice(kind.plain)
    look = rng.choice(PATTERNS[pattern][0])
    if look and rng.random() < 0.15:
        look = ""
    who = {"men": ("men", "men's"), "women": ("women", "women's"), "kids": ("kids", "kids'")}
    bare, owning = who[gender]
    brand = _made_up_brand(rng)
    described = " ".join(filter(None, (colour, look, noun)))
    shouted = " ".join(filter(None, (colour.title(), look.title(), noun.title())))
    forms = (
        f"{brand} {bare.title()} {shouted}",
        f"{brand} {bare.title()} {shouted}",
        f"{brand} {bare.title()}'s {shouted}".replace("Kids's", "Kids'"),
        f"{brand} {shouted}",
        f"{owning} {described}",
        f"{described} for {bare}",
        described,
        f"a photo of a {described}",
        f"{noun} in {colour}",
        f"{bare} {noun}, {colour}" + (f", {look}" if look else ""),
    )
    return rng.choice(forms)


def _made_up_brand(rng: random.Random) -> str:
    starts = [*"BDFGKLMNPRSTVWZ", "Br", "Cl", "Fr", "St", "Tr"]
    parts = [rng.choice(starts) + rng.choice("aeiou") for _ in range(rng.randint(1, 2))]
    return ("".join(parts) + rng.choice(["", "n", "r", "s", "x", "lo", "ma", "ton"])).capitalize()


def _accent(rng: random.Random, rgb: RGB) -> RGB:
    """A colour that stands out from `rgb`."""
    options = [
        c for c in COLOURS.values() if sum(abs(a - b) for a, b in zip(c, rgb, strict=True)) > 190
    ]
    return rng.choice(options)


def _jitter(rng: random.Random, rgb: RGB, amount: int) -> RGB:
    r, g, b = (max(0, min(255, value + rng.randint(-amount, amount))) for value in rgb)
    return r, g, b
