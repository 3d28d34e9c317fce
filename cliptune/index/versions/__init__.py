"""Generations of an index: each made by one model, one of them current, and swaps between them.

A search Flow goes to another model by a new generation beside the current one: the same documents,
embedded by the other model. `pointer` says which is which, `live` is the index that follows it,
`gate` and `journal` see to it that no write is lost on the way, `catch_up` fills a generation,
`quality` compares two, and `swap` is the whole of it. `docs/swap.md` tells how they fit.
"""
