"""Contrastive losses over a batch of pairs.

A loss is computed for some rows of the batch at a time: the sum over all rows is the loss. So
a batch of any size needs memory for a strip of its N x N similarities only, and several
processes each do their own strip.

Pairs may have weights w, as in generalised contrastive learning (Zhu et al., 2024,
arXiv:2404.08535): what pair i adds, in both directions, is multiplied by w_i, and the sum divided
by that of the batch's weights instead of by N. Only their ratios within a batch count, so the
learning rate means what it meant, and equal weights give the plain loss. A pair of weight 0 is a
wrong answer: its picture is there for other pairs' texts to be told apart from, its text for
nobody.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Loss(Protocol):
    """What the losses have in common."""

    def __call__(
        self,
        images: Tensor,
        texts: Tensor,
        labels: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        rows: slice = slice(None),
        weights: Tensor | None = None,
    ) -> Tensor:
        """What the pairs in `rows` add to the loss of the batch, a scalar.

        Args:
            images: embeddings [N, D], unit length.
            texts: embeddings [N, D] of the same pairs, unit length.
            labels: int64 [N]; equal labels are right answers to each other.
            logit_scale: the factor on the cosines (not its logarithm), a scalar.
            logit_bias: what is added to the logits, a scalar, for losses that have one.
            rows: the pairs to look at; all of them by default.
            weights: float32 [N], at least 0; None: all are 1.
        """


def clip_loss(
    images: Tensor,
    texts: Tensor,
    labels: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    rows: slice = slice(None),
    weights: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """CLIP's loss: the cross entropies of image to text and of text to image, averaged.

    Radford et al., "Learning transferable visual models from natural language supervision",
    2021. It is open_clip's `ClipLoss` wherever all labels of the batch differ. A pair whose
    label equals another's (a second picture of the same title) is not a negative for it: its
    logit is left out of the denominator, since pushing the two apart would be wrong.

    With `label_smoothing` that part of each target is shared by all answers that are not left out,
    the right one too (Szegedy et al., "Rethinking the inception architecture", 2016).

    With weights it is sum_i w_i (CE(image i to texts) + CE(text i to images)) / (2 sum_i w_i).

    Prefer it as long as a batch has some dozens of pairs: its negatives are the batch.
    """
    count = len(labels)
    target = torch.arange(count, device=images.device)[rows]
    same = labels[rows, None] == labels[None, :]
    no_text = same if weights is None else same | (weights == 0)[None, :]
    for left_out in (same, no_text):
        left_out[torch.arange(len(target)), target] = False
    images, texts = images.float(), texts.float()
    # A bias would cancel out of a cross entropy.
    to_texts = (logit_scale * images[rows] @ texts.T).masked_fill(no_text, float("-inf"))
    to_images = (logit_scale * texts[rows] @ images.T).masked_fill(same, float("-inf"))
    both = _cross_entropies(to_texts, target, label_smoothing) + _cross_entropies(
        to_images, target, label_smoothing
    )
    if weights is None:
        return both.sum() / (2 * count)
    return (weights[rows] * both).sum() / (2 * _total(weights))


def _cross_entropies(logits: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """[n], of logits [n, N] with -inf for what is left out, which smoothing leaves out too."""
    if not label_smoothing:
        return F.cross_entropy(logits, target, reduction="none")
    answers = logits.isfinite()
    log_likelihoods = logits.log_softmax(1).masked_fill(~answers, 0)
    of_right = log_likelihoods.gather(1, target[:, None])[:, 0]
    of_any = log_likelihoods.sum(1) / answers.sum(1)
    return -(1 - label_smoothing) * of_right - label_smoothing * of_any


def siglip_loss(
    images: Tensor,
    texts: Tensor,
    labels: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    rows: slice = slice(None),
    weights: Tensor | None = None,
) -> Tensor:
    """SigLIP's loss: for each image and text of the batch, whether they belong together.

    Zhai et al., "Sigmoid loss for language image pre-training", 2023: the sum over all N x N
    couples of -log sigmoid(z * (scale * cosine + bias)), z = 1 for right answers and -1 for
    wrong ones, over N. It is open_clip's `SigLipLoss` wherever all labels differ; couples of
    equal labels are right answers. With weights that of a couple of image i and text j is
    (w_i + w_j) / 2, or 0 where w_j is 0, and the sum is divided by that of all w.

    Prefer it for models that were pre-trained with it, for small batches, and where many pairs
    of a batch share a label.
    """
    logits = logit_scale * images[rows].float() @ texts.float().T
    if logit_bias is not None:
        logits = logits + logit_bias
    z = 2 * (labels[rows, None] == labels[None, :]).float() - 1
    if weights is None:
        return -F.logsigmoid(z * logits).sum() / len(labels)
    of_couples = (weights[rows, None] + weights[None, :]) / 2 * (weights > 0)[None, :]
    return -(of_couples * F.logsigmoid(z * logits)).sum() / _total(weights)


def _total(weights: Tensor) -> Tensor:
    """Their sum; of a batch of wrong answers alone something that can be divided by."""
    return weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def calibrated_bias(logits: Tensor, labels: Tensor) -> Tensor:
    """The bias b for which mean(sigmoid(logits + b)) is the share of right answers.

    It is the intercept that minimises SigLIP's loss for `logits` [N, N]. A model that was not
    pre-trained with that loss has no bias, and a poor start would throw its weights about.
    """
    share = (labels[:, None] == labels[None, :]).double().mean()
    low, high = -logits.double().max() - 30, -logits.double().min() + 30
    for _ in range(60):
        middle = (low + high) / 2
        if torch.sigmoid(logits.double() + middle).mean() > share:
            high = middle
        else:
            low = middle
    return ((low + high) / 2).to(logits.dtype)


LOSSES: dict[str, Loss] = {"CLIPLoss": clip_loss, "SigLIPLoss": siglip_loss}
