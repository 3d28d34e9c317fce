"""How relevant matches are, where the model that embedded the query says what its cosines mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from docarray import DocList

from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput, NotReady
from cliptune.models.calibration import cosine_of, relevance
from cliptune.protocol.limits import has_text, name_of_document
from cliptune.protocol.parameters import SearchParameters


def threshold(
    docs: Sequence[ClipDoc], positions: Iterable[int], parameters: SearchParameters
) -> float | None:
    """The least cosine that queries of one model may show; None: any.

    Args:
        docs: the queries of a request.
        positions: those of the model.
        parameters: with `score_threshold` and `min_relevance`.

    Raises:
        NotReady: `min_relevance` is given, and the model isn't calibrated.
        BadInput: likewise, and a query isn't a text.
    """
    least = parameters.score_threshold
    if parameters.min_relevance is None:
        return least
    for position in positions:
        doc = docs[position]
        if not has_text(doc):
            raise BadInput(
                f"min_relevance: {name_of_document(position, doc)} is no text alone: what a cosine "
                "means is known of texts that find pictures; score_threshold takes a cosine"
            )
        if doc.calibration is None:
            raise NotReady(
                f"min_relevance: model {doc.model_digest!s:.12} is not calibrated: `cliptune "
                "calibrate ARTIFACT --queries QUERIES --out FOLDER` writes it with what its "
                "cosines mean, and FOLDER is to be served in its place"
            )
        cosine = cosine_of(doc.calibration, parameters.min_relevance)
        least = max(-1.0 if least is None else least, min(cosine, 1.0))
    return least


def judge(query: ClipDoc, matches: DocList[Match], min_relevance: float | None) -> None:
    """Say of each match how relevant it is, if that is known; below `min_relevance` they go.

    Raises:
        BadInput: `min_relevance` is given, and a match has no picture.
    """
    if query.calibration is None:
        return
    for match in matches:
        if match.image_digest is not None or match.uri is not None:
            match.relevance = relevance(query.calibration, match.score)
        elif min_relevance is not None:
            raise BadInput(
                f"min_relevance: the document {match.id!r} was indexed by its text: what a cosine "
                "means is known of texts that find pictures; score_threshold takes a cosine"
            )
    if min_relevance is not None:
        # A cosine of 1 is the most there is, and may be of less than what is asked for.
        matches[:] = [
            one for one in matches if one.relevance is not None and one.relevance >= min_relevance
        ]
