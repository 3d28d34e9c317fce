"""Whether a run learns: what goes wrong without an error is said while it shows, and at the end.

A sample of training pairs is embedded before the first step and after every epoch, without
augmentation, so that figures compare. The rules, and when they speak:

- **collapsed**: all its embeddings have become alike, by a mean cosine of at least `ALIKE` and by a
  distance from 1 that is at most `SHRUNK` of that before the first step, and the cross entropy of
  the sample is at least `GUESSING` of that of guessing (all answers equally likely). So a model
  that starts from random weights, whose embeddings may be alike by themselves, may guess.
- **guessing**: it is that of guessing, and was not before the first step.
- **risen**: the run's own loss on the sample is more than `RISEN` above that before the first step.
- **unchanged**: it is what it was before the first step: no weight that counts has changed.
- **finds less**: an evaluation's reciprocal rank is more than `WORSE` below that before training,
  and by more than two queries' worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from cliptune.training.batches.pairs import Pairs, read_batch
from cliptune.training.batches.samplers import step_seed
from cliptune.training.losses import clip_loss
from cliptune.training.step import Objective

SAMPLE = 128
GUESSING = 0.98
RISEN = 0.05
UNCHANGED = 1e-6
WORSE = 0.05
ALIKE = 0.98
"""The mean cosine from which embeddings are called alike."""
SHRUNK = 0.1
_LEAST_SCALE = 1 / 0.07
"""Of the cosines in the cross entropy: a model trained with SigLIP's loss may have a lower one."""
_ADVICE = "try a learning rate that is ten times lower"


@dataclass(frozen=True)
class Sign:
    """What the sample looks like at one moment."""

    loss: float
    """The run's own."""
    entropy: float
    """CLIP's cross entropy."""
    guessing: float
    """What it is where all answers are equally likely."""
    alike: float
    """The mean cosine of two pictures or of two texts, whichever are more alike."""

    @property
    def guesses(self) -> bool:
        """Whether it is no better than guessing."""
        return self.entropy >= GUESSING * self.guessing


class Health:
    """Looks at a run's model by a sample of its training pairs."""

    def __init__(self, objective: Objective, pairs: Pairs, seed: int) -> None:
        """Draw the sample; `objective` has no augmentation and one process."""
        right = pairs.right
        count = min(SAMPLE, len(right))
        drawn = np.random.default_rng(step_seed(seed, 0)).permutation(right)[:count]
        self.objective = objective
        self.batch = read_batch(pairs, np.sort(drawn), slice(0, count))

    def look(self) -> Sign:
        """The model as it is now; it is left in evaluation mode."""
        clip = self.objective.model.clip
        clip.eval()
        images, texts = self.objective.embeddings(self.batch)
        labels = self.batch.labels.to(images.device)
        scale = clip.logit_scale.detach().exp().clamp(min=_LEAST_SCALE)
        others = (labels[:, None] != labels[None, :]).sum(dim=1)
        return Sign(
            loss=self.objective.value(self.batch),
            entropy=float(clip_loss(images, texts, labels, scale)),
            guessing=float(torch.log(1.0 + others).mean()),
            alike=max(_mean_cosine(images), _mean_cosine(texts)),
        )


def judge(start: Sign, now: Sign) -> str:
    """What is wrong by the rules above, in a sentence; empty if nothing is.

    Args:
        start: the sample before the first step.
        now: the sample after some epochs.
    """
    figures = (
        f"the cross entropy of training pairs, {now.entropy:.3f}, is that of guessing "
        f"({now.guessing:.3f})"
    )
    has_become_alike = now.alike >= ALIKE and 1 - now.alike <= SHRUNK * (1 - start.alike)
    if now.guesses and has_become_alike:
        return (
            f"the model has collapsed: {figures}, all embeddings are alike (mean cosine "
            f"{now.alike:.3f}); {_ADVICE}"
        )
    if now.guesses and not start.guesses:
        return f"the model has lost what it knew: {figures}; {_ADVICE}"
    if now.loss > start.loss + RISEN * abs(start.loss):
        return (
            f"the loss of training pairs has risen from {start.loss:.4f} before training to "
            f"{now.loss:.4f}; {_ADVICE}"
        )
    if abs(now.loss - start.loss) <= UNCHANGED:
        return (
            f"the loss of training pairs is exactly what it was before training, {now.loss:.4f}: "
            "nothing has been learnt (are all weights frozen, or is the learning rate far too low?)"
        )
    return ""


def finds_less(
    before: Mapping[str, float],
    after: Mapping[str, float],
    evaluations: Mapping[str, Mapping[str, int]],
) -> str:
    """Which evaluation is clearly worse than before training, in a sentence; empty if none is."""
    for name, counts in evaluations.items():
        metric = f"{name}_reciprocal_rank"
        if metric in before and metric in after:
            fall = before[metric] - after[metric]
            if fall > max(WORSE * before[metric], 2 / counts["n_queries"]):
                return (
                    f"{name} finds less than before training: reciprocal rank "
                    f"{before[metric]:.4f} before, {after[metric]:.4f} after"
                )
    return ""


def _mean_cosine(embeddings: torch.Tensor) -> float:
    """Of all couples of different rows of `embeddings` [N, D], which are of unit length."""
    count = len(embeddings)
    total = embeddings.double().sum(dim=0).square().sum()
    return float((total - count) / (count * (count - 1)))
