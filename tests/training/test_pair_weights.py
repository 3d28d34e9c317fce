"""Weighted pairs and wrong answers: the losses by their formulas, batches, and a run."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from docarray import DocList
from PIL import Image

from cliptune.data.pictures.pixels import decode_documents
from cliptune.documents import ClipDoc
from cliptune.errors import BadData
from cliptune.inference.engines import both_towers
from cliptune.models.loading import ClipModel, load_model
from cliptune.training import TrainingOptions, train
from cliptune.training.batches.pair_weights import find_negatives, negatives_among, weights_of
from cliptune.training.batches.pairs import Pairs, check_trainable, make_pairs, read_batch
from cliptune.training.batches.samplers import GROUP, negatives_order, random_order
from cliptune.training.losses import clip_loss, siglip_loss
from cliptune.training.run_logger import StandardRunLogger

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 50, 200), "black": (9, 9, 9)}
SCALE = 9.0
LABELS = [0, 1, 0, 2, 3, 4, 5]
WEIGHTS = [2.0, 0.5, 1.0, 0.0, 7.0, 0.25, 0.0]
"""Two pairs are wrong answers: 3 and 6."""


def embeddings(n: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    images, texts = torch.randn(2, n, 8, generator=torch.Generator().manual_seed(n))
    return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)


def test_clips_loss_is_the_weighted_mean_over_both_directions() -> None:
    images, texts = embeddings()
    cosines = (SCALE * images @ texts.T).tolist()
    total = 0.0
    for i, weight in enumerate(WEIGHTS):
        rivals = [j for j in range(7) if j == i or LABELS[j] != LABELS[i]]
        of_texts = [j for j in rivals if WEIGHTS[j] > 0 or j == i]
        total += weight * (math.log(sum(math.exp(cosines[i][j]) for j in of_texts)) - cosines[i][i])
        total += weight * (math.log(sum(math.exp(cosines[j][i]) for j in rivals)) - cosines[i][i])
    labels, weights = torch.tensor(LABELS), torch.tensor(WEIGHTS)
    cuts = [slice(0, 3), slice(3, 7)]
    found = sum(
        clip_loss(images, texts, labels, torch.tensor(SCALE), None, rows, weights) for rows in cuts
    )
    assert float(found) == pytest.approx(total / (2 * sum(WEIGHTS)), abs=1e-5)


def test_siglips_loss_weighs_couples() -> None:
    images, texts = embeddings()
    total = 0.0
    for i in range(7):
        for j in range(7):
            logit = SCALE * float(images[i] @ texts[j]) - 3
            z = 1 if LABELS[i] == LABELS[j] else -1
            weight = (WEIGHTS[i] + WEIGHTS[j]) / 2 if WEIGHTS[j] else 0
            total += weight * math.log1p(math.exp(-z * logit))
    labels, weights = torch.tensor(LABELS), torch.tensor(WEIGHTS)
    scale, bias = torch.tensor(SCALE), torch.tensor(-3.0)
    found = siglip_loss(images, texts, labels, scale, bias, weights=weights)
    assert float(found) == pytest.approx(total / sum(WEIGHTS), abs=1e-5)


@pytest.mark.parametrize("loss", [clip_loss, siglip_loss])
def test_equal_weights_are_none_and_a_batch_of_wrong_answers_teaches_nothing(loss: object) -> None:
    assert loss in (clip_loss, siglip_loss)
    images, texts = embeddings()
    given = images.requires_grad_(), texts, torch.tensor(LABELS), torch.tensor(SCALE)
    plain = loss(*given)  # type: ignore[operator]
    torch.testing.assert_close(loss(*given, weights=torch.full((7,), 3.5)), plain)  # type: ignore[operator]
    nothing = loss(*given, weights=torch.zeros(7))  # type: ignore[operator]
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert images.grad is not None
    assert not images.grad.any()


def test_a_wrong_answer_pushes_its_picture_from_the_text_and_nothing_else() -> None:
    """As another picture among a text's, in sentence-transformers' loss with hard negatives."""
    images, texts = embeddings(4)
    texts[3] = texts[0]  # the wrong answer's text is that which it is wrong for
    images.requires_grad_()
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0])
    ours = clip_loss(images, texts, torch.arange(4), torch.tensor(SCALE), weights=weights)
    to_images = F.cross_entropy(SCALE * texts[:3] @ images.T, torch.arange(3))
    to_texts = F.cross_entropy(SCALE * images[:3] @ texts[:3].T, torch.arange(3))
    torch.testing.assert_close(ours, (to_images + to_texts) / 2)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> ClipModel:
    return load_model(tiny_model)


def picture(colour: str | tuple[int, ...]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(data, "PNG")
    return data.getvalue()


def documents() -> DocList[ClipDoc]:
    colours = ("red", "green", "blue", "white", "black", "yellow")
    docs = [ClipDoc(id=c, text=f"a {c} thing", image=picture(c)) for c in colours]
    docs[0].weight, docs[1].grade = 4.0, 1
    docs[0].negatives = ["blue", "gone", "red"]
    docs.append(ClipDoc(id="x", text="a green thing", image=picture("olive"), grade=0))
    docs.append(ClipDoc(id="y", text="A Green  thing", image=picture("blue"), grade=0))
    return DocList[ClipDoc](docs)


def pairs_of(docs: DocList[ClipDoc], model: ClipModel) -> Pairs:
    decoded = decode_documents(docs, model.preprocessing)
    return make_pairs(docs, decoded, model.tokenizer, model.context_length)


def test_what_documents_say_of_their_pairs(model: ClipModel) -> None:
    pairs = pairs_of(documents(), model)
    assert pairs.weights is not None
    assert pairs.weights.tolist() == pytest.approx([4, 1 / 3, 1, 1, 1, 1, 0, 0])
    assert {k: v.tolist() for k, v in pairs.negatives.items()} == {0: [2], 1: [6, 7]}
    assert pairs.right.tolist() == [0, 1, 2, 3, 4, 5]
    labels = pairs.labels.tolist()
    assert labels[7] == labels[2], "the wrong answer to green is the right one to blue"
    assert len(set(labels)) == 7
    part = pairs.subset(np.array([7, 1, 3]))
    assert part.weights is not None
    assert part.weights.tolist() == pytest.approx([0, 1 / 3, 1])
    assert {k: v.tolist() for k, v in part.negatives.items()} == {1: [0]}
    batch = read_batch(pairs, np.array([6, 0]), slice(0, 2))
    assert batch.weights is not None
    assert batch.weights.tolist() == [0, 4]


def test_plain_documents_have_neither(model: ClipModel) -> None:
    docs = DocList[ClipDoc]([ClipDoc(text=c, image=picture(c)) for c in ("red", "blue")])
    assert weights_of(docs) is None
    assert find_negatives(docs, [0, 1]) == negatives_among({}, [0]) == {}
    assert read_batch(pairs_of(docs, model), np.array([0]), slice(0, 1)).weights is None


def test_wrong_answers_alone_are_nothing_to_learn_from(model: ClipModel) -> None:
    docs = documents()[1:2] + documents()[6:]
    with pytest.raises(BadData, match=r"1 usable training pair\(s\) besides 2 of grade 0"):
        check_trainable(pairs_of(DocList[ClipDoc](docs), model))


def test_a_drawn_text_of_a_wrong_answer_makes_nothing_right(model: ClipModel) -> None:
    docs = documents()
    for doc in docs:
        doc.texts = {str(doc.text): 1.0, f"{doc.text}, new": 1.0}
    pairs = pairs_of(docs, model)
    for seed in range(8):
        labels = read_batch(pairs, np.arange(8), slice(0, 8), seed).labels
        assert labels[6] != labels[1]
        assert labels[7] == labels[2] != labels[1]


def test_wrong_answers_share_a_batch_with_whom_they_are_wrong_for() -> None:
    n, size = 640, 64
    random = np.random.default_rng(0)
    negatives = {i: random.choice(np.arange(320, 640), 3, replace=False) for i in range(0, 320, 4)}

    def together(order: list[np.ndarray]) -> float:
        batch_of = np.empty(n, dtype=int)
        for number, batch in enumerate(order):
            batch_of[batch] = number
        return float(np.mean([(batch_of[w] == batch_of[i]).mean() for i, w in negatives.items()]))

    seen = set()
    for epoch in range(3):
        order = negatives_order(negatives, n, size, 1, epoch)
        assert sorted(np.concatenate(order).tolist()) == list(range(n))
        assert [len(batch) for batch in order] == [len(b) for b in random_order(n, size, 1, 0)]
        assert together(order) > 0.5 > 0.2 > together(random_order(n, size, 1, epoch))
        seen.add(np.concatenate(order).tobytes())
        again = negatives_order(negatives, n, size, 1, epoch)
        assert all((a == b).all() for a, b in zip(order, again, strict=True))
    assert len(seen) == 3
    many = {0: np.arange(1, 100)}
    group = negatives_order(many, 100, 100, 0, 0)[0]
    place = group.tolist().index(0)
    assert len(group[place : place + GROUP]) <= GROUP


def test_a_run_pushes_wrong_answers_away_and_heeds_weights(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Orange things are called red once: as right, as hardly right, and as wrong."""

    def tuned(name: str, **orange: float) -> float:
        random = np.random.default_rng(0)
        docs = DocList[ClipDoc]()
        for colour, rgb in [*COLOURS.items(), ("red", (230, 120, 20))] * 6:
            shade = tuple(np.clip(np.array(rgb) + random.integers(-9, 9, 3), 0, 255).tolist())
            given = orange if rgb[1] == 120 else {}
            docs.append(ClipDoc(text=f"a {colour} square", image=picture(shade), **given))  # type: ignore[arg-type]
        values = {"epochs": 6, "batch_size": 10, "learning_rate": 3e-3, "device": "cpu"}
        options = TrainingOptions.parse({"model": str(tiny_model), **values})
        folder = tmp_path / name
        folder.mkdir()
        train(options, docs, None, [], folder, StandardRunLogger())
        texts, pictures = both_towers(folder / "artifact", device="cpu")
        [red] = texts.encode(["a red square"])
        as_red, as_orange = pictures.encode([picture(COLOURS["red"]), picture((230, 120, 20))])
        return float(red @ as_red - red @ as_orange)

    right, barely, wrong = tuned("right"), tuned("barely", weight=0.01), tuned("wrong", grade=0)
    assert right < 0.1 < wrong
    assert right <= barely < wrong
