"""Exact top-k retrieval by cosine, without ever holding a query-by-index matrix.

Scores are made in blocks of `query_chunk` × `chunk` by a float32 matrix product, on whichever
device the embeddings are. Picking the best of a block takes the maxima of short groups of
columns first: the k best documents lie in the k groups with the best maxima, so that only about
2·sqrt(k · chunk) numbers a query are sorted. Scores and positions are packed into one integer,
higher score first and then lower position, which makes every pick unique on every device.

A float32 product rounds equal embeddings differently in different places of a block. So a few
candidates more than k are kept and scored again in float64, and where rounding may have cost an
outsider its place (many copies of one picture, say), the query is scored in float64 against the
whole index. The answer is then the exact one, whatever the chunk sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from cliptune.errors import BadInput

DISTANCES = ("cosine",)

_SPARE_CANDIDATES = 8  # kept beyond k, for those that float32 rounding put a little too low
_RESCORED_NUMBERS = 2**21  # at once, in float64
_LOW = 0xFFFF_FFFF
_EXCLUDED = -0x7F80_0001  # the upper half of the key of a score of -inf
_NOTHING = torch.iinfo(torch.int64).min

Embeddings = np.ndarray | torch.Tensor


class SearchOptions(TypedDict, total=False):
    """What `top_k` may be told, see there."""

    distance: str
    exclude: ArrayLike | None
    chunk: int
    query_chunk: int
    device: str | torch.device | None


def top_k(
    query_emb: Embeddings,
    index_emb: Embeddings,
    k: int,
    *,
    distance: str = "cosine",
    exclude: ArrayLike | None = None,
    chunk: int = 16384,
    query_chunk: int = 512,
    device: str | torch.device | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `k` nearest index documents of every query, best first.

    Equal scores are ordered by the position in the index. The work beside the embeddings is
    bounded by the chunk sizes, about 100 MB at most with the default ones.

    Args:
        query_emb: floats [Q, D], numpy or torch, of any length but 0 (cosine is scale-free).
        index_emb: floats [N, D]; a read-only memory map will do.
        k: how many; fewer come back where the index is smaller.
        distance: `cosine`.
        exclude: integers [Q] or [Q, m], positions in the index that a query may not retrieve,
            such as itself; -1 for none.
        chunk: index rows in a block of scores.
        query_chunk: query rows in a block of scores.
        device: where to compute; by default where the embeddings are.

    Returns:
        ids: int64 [Q, min(k, N)], positions in the index. A query that has fewer answers,
            because of `exclude`, has -1 in its last places.
        scores: float32 [Q, min(k, N)], cosines in [-1, 1]; -inf beside an id of -1.

    Raises:
        BadInput: another distance, shapes that do not fit, NaN or infinite embeddings or ones
            of length 0 (their positions are named), k or a chunk below 1.
    """
    check_distance(distance)
    for name, value in (("k", k), ("chunk", chunk), ("query_chunk", query_chunk)):
        if value < 1:
            raise BadInput(f"{name} is {value}, it must be at least 1")
    if device is None:
        device = next((x.device for x in (index_emb, query_emb) if torch.is_tensor(x)), "cpu")
    with torch.inference_mode():
        queries = _Rows("query", query_emb, torch.device(device), chunk)
        index = _Rows("index", index_emb, torch.device(device), chunk)
        if queries.dim != index.dim:
            raise BadInput(
                f"query embeddings have {queries.dim} dimensions, index embeddings {index.dim}"
            )
        left_out = _checked_exclude(exclude, len(queries), len(index))
        width = min(k, len(index))
        ids = np.full((len(queries), width), -1, dtype=np.int64)
        scores = np.full((len(queries), width), -np.inf, dtype=np.float32)
        if not width:
            return ids, scores
        slack = _rounding(index.dim)
        for start, stop in _ranges(len(queries), query_chunk):
            rows = torch.arange(start, stop)
            keys = _candidates(queries, rows, index, width, left_out, chunk, torch.float32)
            ids[rows], scores[rows] = _rescored(queries, rows, index, keys, width)
            if keys.shape[1] == len(index):
                continue
            # Whoever is no candidate scores at most as the last one does, up to the rounding.
            last = _scores(keys[:, -1]).cpu()
            worst = torch.from_numpy(scores[start:stop, -1])
            rows = rows[(last + slack >= worst) & ~last.isneginf()]
            if len(rows):
                keys = _candidates(queries, rows, index, width, left_out, chunk, index.precise)
                ids[rows], scores[rows] = _rescored(queries, rows, index, keys, width)
    return ids, scores


def check_distance(distance: str) -> None:
    """Raise `BadInput` unless `distance` is one that retrieval knows."""
    if distance not in DISTANCES:
        raise BadInput(f"distance is {distance!r}, allowed: {', '.join(map(repr, DISTANCES))}")


class _Rows:
    """Embeddings [N, D] read in slices of unit length, whatever array holds them."""

    def __init__(self, role: str, values: Embeddings, device: torch.device, step: int) -> None:
        self.values = values if torch.is_tensor(values) else np.asarray(values)
        self.device = device
        if self.values.ndim != 2:
            raise BadInput(
                f"{role} embeddings must be a [N, D] array, the shape is {tuple(self.values.shape)}"
            )
        self.dim = self.values.shape[1]
        self.precise = torch.float32 if device.type == "mps" else torch.float64
        """The dtype for exact scores; Metal has no float64."""
        lengths = [
            torch.linalg.vector_norm(self._tensor(self.values[start:stop], torch.float32), dim=1)
            for start, stop in _ranges(len(self), step)
        ]
        all_lengths = torch.cat(lengths) if lengths else torch.zeros(0)
        for wrong, problem in (
            (~all_lengths.isfinite(), "hold NaN or infinite numbers"),
            (all_lengths == 0, "have length 0 and so no direction"),
        ):
            positions = wrong.nonzero()[:, 0].tolist()
            if positions:
                shown = ", ".join(map(str, positions[:10])) + (", …" if positions[10:] else "")
                raise BadInput(
                    f"{len(positions)} of {len(self)} {role} embeddings {problem}: "
                    f"at position {shown}"
                )

    def __len__(self) -> int:
        return self.values.shape[0]

    def _tensor(self, values: Embeddings, dtype: torch.dtype) -> torch.Tensor:
        if isinstance(values, np.ndarray):
            # torch warns of read-only memory (memory maps), so that is copied, slice by slice.
            writable = values.flags.writeable and values.dtype.kind == "f"
            values = torch.from_numpy(values if writable else values.astype(np.float32))
        return values.to(self.device, dtype)

    def unit(self, where: slice | torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`dtype` [..., D]: a slice, or the rows at positions [...]."""
        place: slice | torch.Tensor | NDArray[np.int64] = where
        if isinstance(where, torch.Tensor):
            there = isinstance(self.values, torch.Tensor)
            place = where.to(self.values.device) if there else where.cpu().numpy()
        rows = self._tensor(self.values[place], dtype)
        return rows.div(torch.linalg.vector_norm(rows, dim=-1, keepdim=True))


def _candidates(
    queries: _Rows,
    rows: torch.Tensor,
    index: _Rows,
    width: int,
    left_out: NDArray[np.int64] | None,
    chunk: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Keys int64 [q, m] of the best index rows for the queries at `rows`, best first.

    m is a little more than `width`, or N where that is less.
    """
    m = width + _SPARE_CANDIDATES
    asked = queries.unit(rows, dtype)
    exclude = None if left_out is None else left_out[rows.numpy()]
    best = torch.empty((len(rows), 0), dtype=torch.int64, device=asked.device)
    for start, stop in _ranges(len(index), chunk):
        scores = (asked @ index.unit(slice(start, stop), dtype).T).float()
        if exclude is not None:
            lines, places = np.nonzero((exclude >= start) & (exclude < stop))
            columns = torch.from_numpy(exclude[lines, places] - start).to(scores.device)
            scores[torch.from_numpy(lines).to(scores.device), columns] = -math.inf
        best = torch.cat([best, _best_of_block(scores, start, m)], dim=1)
        best = best.topk(min(m, best.shape[1]), dim=1).values
    return best


def _rounding(dim: int) -> float:
    """How far a float32 cosine may be off: a bound for two lengths and a dot product (Higham),
    and what torch rounds the factors to where it was told to hurry.
    """
    hurry = {"highest": 0.0, "high": 2.0**-10, "medium": 2.0**-7}
    return (2 * dim + 32) * 2.0**-24 + hurry[torch.get_float32_matmul_precision()]


def _best_of_block(scores: torch.Tensor, first: int, m: int) -> torch.Tensor:
    """Keys [q, min(m, n)] of the best columns of scores [q, n] whose first column is `first`."""
    n = scores.shape[1]
    size = math.isqrt(n // m)
    if size < 3:
        columns = torch.arange(n, device=scores.device)
        return _keys(scores, first + columns).topk(min(m, n), dim=1).values
    maxima = torch.nn.functional.max_pool1d(scores, size, ceil_mode=True)
    numbers = torch.arange(maxima.shape[1], device=scores.device)
    groups = _positions(_keys(maxima, numbers).topk(min(m, len(numbers)), dim=1).values)
    columns = (groups[:, :, None] * size + torch.arange(size, device=scores.device)).flatten(1)
    inside = columns < n  # the last group may be shorter
    kept = scores.gather(1, columns.clamp(max=n - 1))
    keys = _keys(kept, first + columns).masked_fill_(~inside, _NOTHING)
    return keys.topk(min(m, n), dim=1).values


def _keys(scores: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """int64 keys that order by score and then by lower position (which is below 2**32).

    The bits of a float order like those of an integer once a negative one's are flipped.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFF_FFFF)
    return (ordered.to(torch.int64) << 32) | (_LOW - positions)


def _scores(keys: torch.Tensor) -> torch.Tensor:
    ordered = (keys >> 32).to(torch.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFF_FFFF)).view(torch.float32)


def _positions(keys: torch.Tensor) -> torch.Tensor:
    return _LOW - (keys & _LOW)


def _rescored(
    queries: _Rows, rows: torch.Tensor, index: _Rows, keys: torch.Tensor, width: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best `width` of the candidates, by float64 cosines rounded to float32."""
    allowed = (keys >> 32) > _EXCLUDED
    positions = _positions(keys).masked_fill_(~allowed, 0)
    cosines = torch.empty(keys.shape, dtype=torch.float32, device=keys.device)
    step = max(1, _RESCORED_NUMBERS // (keys.shape[1] * max(1, index.dim)))
    for start, stop in _ranges(len(rows), step):
        # Multiplied and summed row by row: a matrix product would round by place again.
        asked = queries.unit(rows[start:stop], index.precise)[:, None, :]
        cosines[start:stop] = (asked * index.unit(positions[start:stop], index.precise)).sum(-1)
    cosines = cosines.clamp_(-1.0, 1.0).masked_fill_(~allowed, -math.inf)
    order = _keys(cosines, positions).argsort(dim=1, descending=True)[:, :width]
    ids = positions.masked_fill_(~allowed, -1).gather(1, order)
    return ids.cpu().numpy(), cosines.gather(1, order).cpu().numpy()


def _checked_exclude(exclude: ArrayLike | None, q: int, n: int) -> NDArray[np.int64] | None:
    """[Q, m], or None where there is nothing to exclude."""
    if exclude is None:
        return None
    positions = np.asarray(exclude)
    if positions.ndim == 1:
        positions = positions[:, None]
    if positions.ndim != 2 or len(positions) != q or positions.dtype.kind not in "iu":
        raise BadInput(
            f"exclude must be integers [{q}] or [{q}, m], "
            f"it is {positions.dtype} {np.shape(exclude)}"
        )
    if positions.size and not (positions.min() >= -1 and positions.max() < n):
        raise BadInput(
            f"exclude holds positions from {positions.min()} to {positions.max()}, "
            f"the index has 0 to {n - 1}"
        )
    return positions.astype(np.int64) if (positions >= 0).any() else None


def _ranges(n: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, n)) for start in range(0, n, step))
