"""One ranking of two: what is near in meaning, and what has the query's words."""

from __future__ import annotations

from collections.abc import Sequence

from cliptune.documents import Match
from cliptune.index.words import WordMatch, is_code, is_named_by

RRF_K = 60
"""Of reciprocal rank fusion, as in its paper."""
DEPTH = 50
"""Documents of each ranking that are fused: pages within them fit together."""


def fuse(
    near: Sequence[Match], worded: Sequence[WordMatch], text: str, alpha: float | None
) -> list[Match]:
    """All matches of both rankings, best first, with their `fused_score`.

    Args:
        near: by meaning, best first.
        worded: by words, best first.
        text: the query. Where it may be a code (one word with a digit), documents whose id, or a
            text or whole number among whose tags, it is come first of all.
        alpha: None: reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009), the sum of
            1 / (60 + rank). Else alpha times the cosine plus 1 - alpha times BM25, scaled over
            their rankings: cosines from 0 (the least) to 1 (the greatest), BM25 by its greatest;
            0 for who isn't in a ranking.
    """
    matches = {str(one.id): one for one in [*(w.match for w in worded), *near]}
    scores = dict.fromkeys(matches, 0.0)
    rankings = [
        ([str(one.id) for one in near], _scaled([one.score for one in near]), alpha),
        ([str(w.match.id) for w in worded], _scaled([w.bm25 for w in worded], 0.0), _rest(alpha)),
    ]
    for ids, own, share in rankings:
        for rank, (identity, scaled) in enumerate(zip(ids, own, strict=True), 1):
            scores[identity] += 1 / (RRF_K + rank) if share is None else share * scaled
    code = text if is_code(text) else None
    for identity, match in matches.items():
        named = code is not None and is_named_by(match, code)
        match.fused_score = scores[identity] + named  # every other score is at most 1
    return sorted(matches.values(), key=lambda one: (-(one.fused_score or 0), str(one.id).encode()))


def _rest(alpha: float | None) -> float | None:
    return None if alpha is None else 1 - alpha


def _scaled(scores: Sequence[float], least: float | None = None) -> list[float]:
    """The scores from 0, their least or what is given for it, to 1, the greatest."""
    least = min(scores, default=0.0) if least is None else least
    most = max(scores, default=0.0)
    return [1.0 if most == least else (score - least) / (most - least) for score in scores]
