"""The losses against open_clip's, and against their definitions where labels repeat."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from cliptune.models.openclip import open_clip
from cliptune.training.losses import LOSSES, calibrated_bias, clip_loss, siglip_loss


def embeddings(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(2, n, 16, generator=generator)
    return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)


@pytest.mark.parametrize("n", [2, 7, 64])
@pytest.mark.parametrize("name", ["CLIPLoss", "SigLIPLoss"])
def test_distinct_labels_give_open_clips_loss_and_gradients(name: str, n: int) -> None:
    images, texts = embeddings(n, n)
    scale = torch.tensor(14.3, requires_grad=True)
    bias = torch.tensor(-3.0, requires_grad=True) if name == "SigLIPLoss" else None
    leaves = [leaf for leaf in (images.requires_grad_(), scale, bias) if leaf is not None]
    # In strips, as they are computed for large batches.
    cuts = [slice(0, n // 2), slice(n // 2, n)]
    ours = sum(LOSSES[name](images, texts, torch.arange(n), scale, bias, rows) for rows in cuts)
    ours.backward()
    gradients = [leaf.grad.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    if name == "CLIPLoss":
        theirs = open_clip.ClipLoss()(images, texts, scale)
    else:
        theirs = open_clip.loss.SigLipLoss()(images, texts, scale, bias)
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients, [leaf.grad for leaf in leaves])


def test_pictures_of_one_title_are_not_negatives_of_each_other() -> None:
    images, texts = embeddings(6, 0)
    labels = [0, 1, 0, 2, 1, 0]
    total = 0.0
    for i in range(6):
        for rows, columns in ((images, texts), (texts, images)):
            cosines = [8.0 * float(rows[i] @ columns[j]) for j in range(6)]
            rivals = [j for j in range(6) if j == i or labels[j] != labels[i]]
            total -= cosines[i] - math.log(sum(math.exp(cosines[j]) for j in rivals))
    ours = clip_loss(images, texts, torch.tensor(labels), torch.tensor(8.0))
    assert float(ours) == pytest.approx(total / 12, abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_is_torchs_where_labels_differ(smoothing: float) -> None:
    images, texts = embeddings(9, 1)
    images.requires_grad_()
    scale, target = torch.tensor(9.0), torch.arange(9)
    cuts = [slice(0, 4), slice(4, 9)]
    ours = sum(
        clip_loss(images, texts, target, scale, rows=rows, label_smoothing=smoothing)
        for rows in cuts
    )
    ours.backward()
    gradient, images.grad = images.grad, None
    logits = scale * images @ texts.T
    theirs = sum(F.cross_entropy(x, target, label_smoothing=smoothing) for x in (logits, logits.T))
    (theirs / 2).backward()
    torch.testing.assert_close(ours, theirs / 2)
    torch.testing.assert_close(gradient, images.grad)


def test_label_smoothing_leaves_out_what_the_loss_does() -> None:
    images, texts = embeddings(6, 0)
    images.requires_grad_()
    labels, weights = [0, 1, 0, 2, 1, 0], [1.0, 2.0, 0.5, 1.0, 0.0, 1.0]
    total = 0.0
    for i in range(6):
        for rows, columns, texts_answer in ((images, texts, True), (texts, images, False)):
            cosines = [8.0 * (rows[i] @ columns[j]).item() for j in range(6)]
            rivals = [
                j
                for j in range(6)
                if j == i or (labels[j] != labels[i] and not (texts_answer and weights[j] == 0))
            ]
            log_sum = math.log(sum(math.exp(cosines[j]) for j in rivals))
            of_any = sum(cosines[j] - log_sum for j in rivals) / len(rivals)
            total -= weights[i] * (0.7 * (cosines[i] - log_sum) + 0.3 * of_any)
    ours = clip_loss(
        images,
        texts,
        torch.tensor(labels),
        torch.tensor(8.0),
        weights=torch.tensor(weights),
        label_smoothing=0.3,
    )
    assert ours.item() == pytest.approx(total / (2 * sum(weights)), abs=1e-5)
    ours.backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


def test_pictures_of_one_title_are_right_answers_to_siglip() -> None:
    images, texts = embeddings(6, 0)
    labels = [0, 1, 0, 2, 1, 0]
    total = 0.0
    for i in range(6):
        for j in range(6):
            sign = 1 if labels[i] == labels[j] else -1
            logit = 8.0 * float(images[i] @ texts[j]) - 2.0
            total += math.log(1 + math.exp(-sign * logit))
    found = siglip_loss(images, texts, torch.tensor(labels), torch.tensor(8.0), torch.tensor(-2.0))
    assert float(found) == pytest.approx(total / 6, rel=1e-5)


def test_a_calibrated_bias_minimises_siglips_loss() -> None:
    images, texts = embeddings(40, 3)
    labels = torch.arange(40) % 30
    scale = torch.tensor(30.0)
    bias = calibrated_bias(scale * images @ texts.T, labels).requires_grad_()
    siglip_loss(images, texts, labels, scale, bias).backward()
    assert abs(float(bias.grad)) < 1e-4


def test_one_label_only_has_nothing_to_learn() -> None:
    images, texts = embeddings(4, 0)
    assert float(clip_loss(images, texts, torch.zeros(4), torch.tensor(5.0))) == 0.0
