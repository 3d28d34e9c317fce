"""Readable names for runs, made up; what is allowed is in `cliptune.names`."""

from __future__ import annotations

import secrets

DEFAULT_EXPERIMENT = "default"
_ADJECTIVES = (
    "able agile amber bold brave brisk bright calm clever cosy curious dapper deft eager early "
    "fair fleet fond gentle glad golden grand happy hardy honest humble keen kind lively loyal "
    "lucid lucky mellow merry mild neat nimble noble patient plucky polite proud quick quiet "
    "rapid ready robust serene sharp silver sleek smart snug solid spry steady sunny swift "
    "tidy tranquil trusty vivid warm wise witty zesty"
)
_ANIMALS = (
    "badger bee bison bunting buzzard condor crane curlew deer dove duck eagle egret elk falcon "
    "ferret finch fox gecko goose hare hawk heron ibex ibis jackdaw jay kestrel kite lark lemur "
    "lynx magpie marten merlin mole moose newt nuthatch osprey otter owl panda petrel pika plover "
    "puffin quail raven robin seal shrew siskin skylark sparrow stoat stork swallow swan swift "
    "tapir teal tern thrush toad trout turtle vole walrus warbler weasel whale wolf wren zebra"
)


def make_name() -> str:
    """A readable name that is most likely free, such as `brave-otter-3f2a`."""
    adjective, animal = secrets.choice(_ADJECTIVES.split()), secrets.choice(_ANIMALS.split())
    return f"{adjective}-{animal}-{secrets.token_hex(2)}"
