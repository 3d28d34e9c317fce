"""Data sets by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cliptune.extras import need

if TYPE_CHECKING:
    from docarray import DocList

    from cliptune.data.source import Data
    from cliptune.data.tables.options import CsvOptions
    from cliptune.documents import ClipDoc


def push(
    data: Data,
    name: str,
    csv_options: CsvOptions | Mapping[str, object] | None = None,
    *,
    replace: bool = False,
) -> None:
    """Store documents, a table or a folder of pictures as the data set `name`.

    `csv_options` are as `fit`'s.

    Raises:
        AlreadyExists: the name is in use and `replace` is not given.
        BadInput: the name is not allowed.
        BadData: `data` can't be read.
    """
    from cliptune.data.source import load_documents
    from cliptune.data.store import push as store

    store(load_documents(data, csv_options=csv_options, role="data"), name, replace=replace)


def pull(name: str) -> DocList[ClipDoc]:
    """The data set `name`: one that was `push`ed, or of the built-in catalogue.

    Raises:
        NotFound: there is none; the message lists near names.
    """
    from cliptune.data.source import load_documents

    return load_documents(name, role="data")


def mine(
    train_data: Data,
    model: str | Path,
    csv_options: CsvOptions | Mapping[str, object] | None = None,
    *,
    device: str | None = None,
    **options: object,
) -> DocList[ClipDoc]:
    """Find hard negatives of pairs: wrong answers that `model` ranks near the right one.

    ::

        mined = cliptune.mine("products.csv", run.save_artifact())
        cliptune.fit("builtin", mined)

    `cliptune mine` writes them into a table instead.

    Args:
        train_data: as `fit`'s. Documents are not changed.
        model: an artifact, `Run.artifact_id`, or a model's name.
        csv_options: as `fit`'s.
        device: `cpu`, `cuda`, …; None is the accelerator that is there.
        options: direction, num_negatives, range_min, range_max, relative_margin, absolute_margin,
            max_score, min_score, near_pictures, near_titles, sampling_strategy, seed: see
            `cliptune.curation.mining_options.MiningOptions`.

    Returns:
        The pairs that can be used, with the ids of wrong answers in `negatives`, the nearest
        first, after those that were there. Pairs of grade 0 come last, as they are.

    Raises:
        BadInput: an option is wrong; the message repeats it.
        NotFound: the data or the model are not there.
        BadData: the data can't be read, or fewer than two pairs are left.
        Unavailable: what models need is not installed.
    """
    need("train", "mining")
    from docarray import DocList

    from cliptune.curation.embedded import embed_pairs
    from cliptune.curation.mining_options import MiningOptions
    from cliptune.curation.negatives import mine as find_negatives
    from cliptune.curation.negatives import with_negatives
    from cliptune.data.source import read_documents
    from cliptune.data.validation import PAIR
    from cliptune.documents import ClipDoc
    from cliptune.inference.engines import both_towers
    from cliptune.sdk.models import locate_model
    from cliptune.settings import Settings

    parsed = MiningOptions.parse(options)
    given = read_documents(train_data, csv_options=csv_options, role="train_data", needs=PAIR).docs
    pairs = embed_pairs(
        given,
        *both_towers(locate_model(model), device=device),
        role="train_data",
        pixel_cache=Settings.read().cache_dir / "pixels",
    )
    wrong = [doc for doc in given if doc.grade == 0]
    return DocList[ClipDoc]([*with_negatives(pairs, find_negatives(pairs, parsed)), *wrong])
