"""Generations of an index: each made by one model, one of them current, and what keeps them so.

A search Flow goes to another model by a new generation beside the current one: the same documents,
embedded by the other model. `manifest` says which is which, `versioned_index` is the index that
follows it, `locks` and `changelog` see to it that no write is lost on the way, `models` keeps each
generation's model, `progress` tells how far a swap is. `cliptune.reindex` makes the swap;
`docs/swap.md` tells how they fit.
"""
