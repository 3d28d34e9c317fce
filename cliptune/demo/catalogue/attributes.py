"""What a drawn product can be: kinds, colours, patterns, brands, in two vocabularies.

The plain words describe any shop's products and pre-train the built-in model. The trade words
are those of one invented shop, the catalogue: they name the same looks in terms that the plain
vocabulary lacks, which is what fine-tuning is for.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "black": (28, 28, 31),
    "white": (244, 244, 242),
    "grey": (140, 142, 146),
    "navy blue": (30, 40, 82),
    "blue": (45, 98, 190),
    "light blue": (150, 190, 228),
    "turquoise": (60, 180, 190),
    "teal": (18, 112, 116),
    "green": (50, 135, 70),
    "olive": (105, 108, 55),
    "yellow": (240, 205, 60),
    "orange": (236, 128, 44),
    "red": (200, 38, 46),
    "maroon": (110, 26, 40),
    "pink": (236, 140, 172),
    "magenta": (196, 42, 128),
    "purple": (108, 62, 146),
    "lavender": (186, 170, 220),
    "brown": (104, 68, 44),
    "beige": (214, 194, 162),
    "cream": (242, 232, 208),
    "peach": (246, 190, 156),
    "silver": (188, 192, 198),
    "gold": (196, 158, 72),
}

TRADE_COLOURS: dict[str, tuple[str, RGB]] = {
    # trade name: (its nearest plain colour, its own shade)
    "Oxblood": ("maroon", (98, 20, 32)),
    "Petrol": ("teal", (16, 92, 104)),
    "Ecru": ("cream", (236, 226, 202)),
    "Slate": ("grey", (98, 108, 120)),
    "Ochre": ("yellow", (206, 154, 44)),
    "Midnight": ("navy blue", (22, 28, 62)),
    "Cobalt": ("blue", (30, 76, 184)),
    "Glacier": ("light blue", (172, 206, 226)),
    "Moss": ("olive", (96, 104, 58)),
    "Fir": ("green", (28, 88, 60)),
    "Terracotta": ("orange", (198, 98, 62)),
    "Vermilion": ("red", (216, 56, 40)),
    "Blush": ("pink", (238, 188, 190)),
    "Fuchsia": ("magenta", (206, 40, 132)),
    "Aubergine": ("purple", (76, 38, 84)),
    "Heather": ("lavender", (168, 150, 190)),
    "Cognac": ("brown", (140, 80, 40)),
    "Sand": ("beige", (216, 196, 160)),
    "Chalk": ("white", (246, 245, 240)),
    "Ink": ("black", (24, 25, 32)),
    "Lagoon": ("turquoise", (44, 164, 172)),
    "Apricot": ("peach", (246, 178, 130)),
}

PATTERNS: dict[str, tuple[tuple[str, ...], str]] = {
    # pattern: (plain words, trade name); solid has none
    "solid": (("",), ""),
    "stripes": (("striped", "horizontally striped"), "Breton"),
    "pinstripes": (("vertically striped", "pinstriped"), "Chalkline"),
    "check": (("checked", "gingham"), "Buffalo"),
    "tartan": (("tartan", "plaid"), "Highland"),
    "dots": (("polka dot", "dotted"), "Pindot"),
    "floral": (("floral", "flower print"), "Liberty"),
    "houndstooth": (("houndstooth",), "Pied"),
    "chevron": (("chevron", "zigzag"), "Herring"),
    "camouflage": (("camouflage", "camo"), "Bracken"),
    "block": (("colour block", "two-tone"), "Regatta"),
    "print": (("printed", "graphic"), "Emblem"),
}
_FABRIC = "solid solid solid stripes check tartan dots floral block"
_KNIT = "solid solid stripes chevron block houndstooth tartan"
_TEE = "solid solid stripes print print camouflage block dots floral"
_FORMAL = "solid solid pinstripes check houndstooth tartan"
_SPORT = "solid solid block camouflage"


@dataclass(frozen=True)
class Kind:
    """A kind of product: what it is called and which looks it comes in."""

    name: str
    plain: tuple[str, ...]
    trade: tuple[str, ...]
    patterns: tuple[str, ...]
    genders: tuple[str, ...]
    price: tuple[int, int]
    category: str


def _kind(
    name: str,
    plain: str,
    trade: str,
    patterns: str = "solid",
    genders: str = "men women",
    price: tuple[int, int] = (15, 60),
    category: str = "clothing",
) -> Kind:
    """A kind from words: names are parted by commas."""
    names = tuple(plain.split(", ")), tuple(trade.split(", "))
    return Kind(name, *names, tuple(patterns.split()), tuple(genders.split()), price, category)


_shoes = functools.partial(_kind, category="footwear")
_accessory = functools.partial(_kind, category="accessories")
_ALL = "men women kids"
KINDS: tuple[Kind, ...] = (
    _kind("tshirt", "t-shirt, tshirt", "Crew T-Shirt, Pocket Tee", _TEE, _ALL),
    _kind("longsleeve", "long sleeve t-shirt, long sleeve top", "Henley Top", _TEE),
    _kind("shirt", "shirt", "Oxford Shirt, Overshirt", f"{_FABRIC} pinstripes"),
    _kind("polo", "polo t-shirt, polo shirt", "Piqué Polo Shirt", "solid solid stripes block"),
    _kind("tank", "tank top, vest", "Singlet Vest", _TEE),
    _kind("blouse", "top, tunic", "Peplum Top, Smock Top", _FABRIC, "women"),
    _kind("hoodie", "hoodie, sweatshirt", "Pullover Hoodie", f"{_SPORT} print", price=(35, 90)),
    _kind("sweater", "sweater, jumper", "Guernsey Sweater, Fisherman Knit", _KNIT, price=(40, 120)),
    _kind("jacket", "jacket", "Harrington Jacket, Bomber Jacket", _SPORT, price=(60, 200)),
    _kind("coat", "coat", "Duffel Coat, Topcoat", _FORMAL, price=(90, 320)),
    _kind("dress", "dress", "Shift Dress, Sundress", _FABRIC, "women kids", (30, 140)),
    _kind("skirt", "skirt", "A-Line Skirt, Kilt", _FABRIC, "women", (25, 80)),
    _kind("jeans", "jeans", "Selvedge Jeans, Denims", price=(40, 140)),
    _kind("trousers", "trousers, pants", "Chino Trousers, Slacks", _FORMAL, price=(35, 120)),
    _kind("shorts", "shorts", "Bermuda Shorts", "solid solid check camouflage floral"),
    _kind("leggings", "leggings, capris", "Leggings, Yoga Tights", f"{_SPORT} floral", "women"),
    _shoes("sneakers", "sports shoes, sneakers", "Runner Sneakers, Trainers", price=(40, 150)),
    _shoes("casual", "casual shoes, loafers", "Deck Loafers, Moccasins", price=(40, 160)),
    _shoes("boots", "boots, booties", "Chelsea Boots, Brogue Boots", price=(70, 240)),
    _shoes("heels", "heels, pumps", "Court Heels, Stilettos", genders="women", price=(50, 200)),
    _shoes("sandals", "sandals", "Strap Sandals, Espadrilles", price=(20, 90)),
    _shoes(
        "flipflops", "flip flops", "Beach Flip Flops", "solid solid stripes print", _ALL, (8, 30)
    ),
    _accessory(
        "handbag",
        "handbag",
        "Tote Handbag, Satchel",
        "solid solid houndstooth block",
        "women",
        (40, 260),
    ),
    _accessory(
        "backpack",
        "backpack",
        "Trail Backpack, Rucksack",
        "solid camouflage block",
        price=(35, 140),
    ),
    _accessory("wallet", "wallet", "Card Wallet, Billfold", price=(20, 90)),
    _accessory("belt", "belt", "Saddle Belt", price=(18, 80)),
    _accessory("watch", "watch", "Field Watch, Chronograph", price=(60, 400)),
    _accessory("sunglasses", "sunglasses", "Harbour Sunglasses, Shades", price=(20, 180)),
    _accessory("cap", "cap", "Snapback Cap", "solid solid camouflage block", _ALL, (12, 40)),
    _accessory(
        "beanie", "beanie, woollen hat", "Dock Beanie, Toque", "solid stripes block", _ALL, (12, 45)
    ),
    _accessory(
        "scarf", "scarf, muffler", "Wrap Scarf, Shawl", f"{_FORMAL} stripes floral", price=(18, 95)
    ),
    _accessory(
        "tie", "tie", "Silk Tie, Cravat", "solid stripes dots tartan chevron", "men", (18, 80)
    ),
    _accessory("socks", "socks", "Crew Socks", "solid stripes dots block chevron", _ALL, (5, 22)),
    _accessory(
        "gloves", "gloves", "Driving Gloves, Mitts", "solid stripes houndstooth", price=(15, 70)
    ),
)
KIND_BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True)
class Brand:
    """An invented brand of the catalogue with its mark."""

    name: str
    mark: str
    """The shape of its logo: ring, bar, diamond, star, wave."""
    ink: RGB
    """The colour of its mark and its trimmings."""


BRANDS: tuple[Brand, ...] = (
    Brand("Nordvik", "diamond", (232, 232, 228)),
    Brand("Halden", "ring", (226, 178, 60)),
    Brand("Marlowe", "bar", (206, 58, 52)),
    Brand("Osprey Lane", "wave", (66, 150, 196)),
    Brand("Tallis", "star", (70, 160, 92)),
)
MARKS = ("none", "none", "ring", "bar", "diamond", "star", "wave")
