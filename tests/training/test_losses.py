"""The loss against open_clip's, and against its definition where labels repeat."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from cliptune.models.openclip import open_clip
from cliptune.training.losses import clip_loss


def embeddings(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(2, n, 16, generator=generator)
    return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)


@pytest.mark.parametrize("n", [2, 7, 64])
def test_distinct_labels_give_open_clips_loss_and_gradients(n: int) -> None:
    images, texts = embeddings(n, n)
    scale = torch.tensor(14.3, requires_grad=True)
    images.requires_grad_(True)
    ours = clip_loss(images, texts, scale, torch.arange(n))
    ours.backward()
    gradients = images.grad.clone(), scale.grad.clone()
    images.grad = scale.grad = None
    theirs = open_clip.ClipLoss()(images, texts, scale)
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients[0], images.grad)
    torch.testing.assert_close(gradients[1], scale.grad)


def test_pictures_of_one_title_are_not_negatives_of_each_other() -> None:
    images, texts = embeddings(6, 0)
    labels = [0, 1, 0, 2, 1, 0]
    total = 0.0
    for i in range(6):
        for rows, columns in ((images, texts), (texts, images)):
            cosines = [8.0 * float(rows[i] @ columns[j]) for j in range(6)]
            rivals = [j for j in range(6) if j == i or labels[j] != labels[i]]
            total -= cosines[i] - math.log(sum(math.exp(cosines[j]) for j in rivals))
    ours = clip_loss(images, texts, torch.tensor(8.0), torch.tensor(labels))
    assert float(ours) == pytest.approx(total / 12, abs=1e-5)


def test_one_label_only_has_nothing_to_learn() -> None:
    images, texts = embeddings(4, 0)
    assert float(clip_loss(images, texts, torch.tensor(5.0), torch.zeros(4))) == 0.0
