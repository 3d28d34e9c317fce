"""What else a recipe could have: each idea by itself, on a small catalogue.

    python benchmarks/training/screening.py ../shared/fashion_large runs.jsonl --products 2000
    python benchmarks/training/recipe.py table runs.jsonl --against plain

Ideas that are options of `TrainingOptions` are tried as such. Those that cliptune does not have are
put in the place of a part of it, here alone: what gains nothing is not to become an option.
Runs are kept and gone on with as in `recipe.py`.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from products import Product, read_products, split_products
from pydantic import PrivateAttr
from recipe import Bench
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cliptune.demo.catalogue.dataset import load_catalogue
from cliptune.documents import ClipDoc
from cliptune.training import losses, step
from cliptune.training.batches.augmentation import crop
from cliptune.training.batches.samplers import Order, step_seed, steps_per_epoch
from cliptune.training.callbacks import Callback
from cliptune.training.optimization.optimizers import OPTIMIZERS
from cliptune.training.state import Training

PLAIN = "plain"
WITHOUT = {"label_smoothing": 0, "augment_word_order": 0}
"""What the defaults have of these ideas already."""
BOTH = {"label_smoothing": 0.1, "augment_word_order": 0.5}
SCHEDULE_FREE: list[Any] = []
"""The optimizers made so far."""
GROUP = 8
"""Products of one article type that go into a batch together."""


class Averaged(Callback):
    """An exponential moving average of the weights, which the run ends with."""

    name: str = "Averaged"
    decay: float = 0.99
    _average: Any = None

    def on_train_begin(self, training: Training) -> None:
        """Begin with the weights as they are."""
        average = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(training.model.clip, multi_avg_fn=average)

    def on_step_end(self, training: Training) -> None:
        """Take in the step's."""
        self._average.update_parameters(training.model.clip)

    def on_train_end(self, training: Training) -> None:
        """Put the average in their place."""
        training.model.clip.load_state_dict(self._average.module.state_dict())


class Soup(Callback):
    """The average of the weights after the last epochs (SWA, Izmailov et al., 2018)."""

    name: str = "Soup"
    epochs: int = 2
    _states: list[dict[str, Tensor]] = PrivateAttr(default_factory=list)

    def on_epoch_end(self, training: Training) -> None:
        """Keep the epoch's."""
        state = training.model.clip.state_dict()
        self._states = [*self._states, {k: v.clone() for k, v in state.items()}][-self.epochs :]

    def on_train_end(self, training: Training) -> None:
        """Put the average in their place."""
        mean = {
            k: torch.stack([s[k].float() for s in self._states]).mean(0) for k in self._states[0]
        }
        training.model.clip.load_state_dict(mean)


class Temperature(Callback):
    """Another factor on the cosines to begin with."""

    name: str = "Temperature"
    scale: float = 1 / 0.07

    def on_train_begin(self, training: Training) -> None:
        """Set it."""
        with torch.no_grad():
            training.model.clip.logit_scale.fill_(math.log(self.scale))


class AtTheEnd(Callback):
    """Schedule-free optimizers have other weights for evaluation (Defazio et al., 2024)."""

    name: str = "AtTheEnd"

    def on_train_end(self, training: Training) -> None:
        """Take those."""
        SCHEDULE_FREE[-1].eval()


def soft_targets(
    images: Tensor,
    texts: Tensor,
    labels: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    rows: slice = slice(None),
    weights: Tensor | None = None,
) -> Tensor:
    """CLIP's loss with a target that all right answers share."""
    right = labels[rows, None] == labels[None, :]
    target = right / right.sum(1, keepdim=True)
    total = torch.zeros(())
    for one, other in ((images, texts), (texts, images)):
        logits = logit_scale * one[rows].float() @ other.float().T
        total = total - (target * logits.log_softmax(1)).sum() / (2 * len(labels))
    return total


def augmented(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """`crop`, and then another change of the pictures [N, 3, H, W]."""

    def changed(x: Tensor, crops: Tensor | None) -> Tensor:
        return change(crop(x, crops))

    return changed


def jittered(x: Tensor, amount: float = 0.2) -> Tensor:
    """Brightness and contrast of each picture changed by up to `amount`; colours stay apart."""
    factor = 1 + amount * (2 * torch.rand(len(x), 1, 1, 1) - 1)
    shift = amount * (2 * torch.rand(len(x), 1, 1, 1) - 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * factor + mean + shift


def erased(x: Tensor, part: float = 0.15) -> Tensor:
    """A square of up to `part` of half of the pictures is made grey (Zhong et al., 2020)."""
    x = x.clone()
    height, width = x.shape[2:]
    for one in x:
        if torch.rand(()) < 0.5:
            side = int(math.sqrt(part * float(torch.rand(()))) * min(height, width))
            top, left = (int(torch.randint(0, n - side + 1, ())) for n in (height, width))
            one[:, top : top + side, left : left + side] = 0
    return x


def by_type(types: Sequence[str], n: int, batch_size: int, seed: int, epoch: int) -> Order:
    """Batches of groups of one article type: hard negatives by the table's own attribute."""
    dice = np.random.default_rng(step_seed(seed, epoch))
    members: dict[str, list[int]] = {}
    for position in dice.permutation(n).tolist():
        members.setdefault(types[position], []).append(position)
    groups = [m[i : i + GROUP] for m in members.values() for i in range(0, len(m), GROUP)]
    joined = np.concatenate([groups[i] for i in dice.permutation(len(groups))])
    return np.array_split(joined.astype(np.int64), steps_per_epoch(n, batch_size))


def with_texts(docs: Sequence[ClipDoc], vary: Callable[[str, random.Random], str]) -> None:
    """Give each document four variations of its title beside the title itself."""
    for number, doc in enumerate(docs):
        dice = random.Random(number)
        varied = {vary(str(doc.text), dice): 1.0 for _ in range(4)}
        doc.texts = {**varied, str(doc.text): 4.0}


def without_a_word(title: str, dice: random.Random) -> str:
    """One word less, most often the brand or a colour."""
    words = title.split()
    if len(words) > 2:
        words.pop(dice.randrange(len(words)))
    return " ".join(words)


def in_a_sentence(title: str, dice: random.Random) -> str:
    """One of CLIP's templates around it."""
    templates = ["a photo of {}", "a picture of {}", "{}, a product", "a good photo of {}"]
    return dice.choice(templates).format(title)


@dataclass
class Idea:
    """One change of the recipe."""

    options: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Callback]] = list
    patches: list[Any] = field(default_factory=list)
    vary: Callable[[str, random.Random], str] | None = None
    replayed: int = 0
    """Pairs of the built-in catalogue that are trained on, too."""
    by_type: bool = False


def _pictures(change: Callable[[Tensor], Tensor]) -> list[Any]:
    return [patch.object(step, "crop", augmented(change))]


def _optimizer(make: Callable[..., Any]) -> list[Any]:
    return [patch.dict(OPTIMIZERS, {"AdamW": make})]


def _lion(groups: Any, lr: float, **_: Any) -> Any:
    from timm.optim.lion import Lion

    return Lion(groups, lr=lr, betas=(0.9, 0.98))


def _schedule_free(groups: Any, lr: float, **_: Any) -> Any:
    from schedulefree import AdamWScheduleFree  # from PyPI

    made = AdamWScheduleFree(groups, lr=lr, betas=(0.9, 0.98))
    made.train()
    SCHEDULE_FREE.append(made)
    return made


IDEAS: dict[str, Idea] = {
    PLAIN: Idea(),
    "EMA .99": Idea(callbacks=lambda: [Averaged(decay=0.99)]),
    "EMA .9": Idea(callbacks=lambda: [Averaged(decay=0.9)]),
    "soup of the last two epochs": Idea(callbacks=lambda: [Soup()]),
    "label smoothing .1": Idea({"label_smoothing": 0.1}),
    "soft targets over equal labels": Idea(
        patches=[patch.dict(losses.LOSSES, {"CLIPLoss": soft_targets})]
    ),
    "SigLIP loss": Idea({"loss": "SigLIPLoss"}),
    "temperature .07 to begin with": Idea(callbacks=lambda: [Temperature()]),
    "hard negatives by embedding": Idea({"sampler": "hard_negatives"}),
    "batches by article type": Idea(by_type=True),
    "brightness and contrast ± .2": Idea(patches=_pictures(jittered)),
    "random erasing": Idea(patches=_pictures(erased)),
    "crops to .6": Idea({"augment_crop": 0.6}),
    "no crops, not mirrored": Idea({"augment_crop": 1.0, "augment_flip": False}),
    "titles without a word": Idea(vary=without_a_word),
    "titles' words in any order": Idea({"augment_word_order": 0.5}),
    "titles in templates": Idea(vary=in_a_sentence),
    "layer decay .8": Idea({"optimizer_options": {"layer_wise_lr_decay": 0.8}}),
    "weight decay .2": Idea({"optimizer_options": {"weight_decay": 0.2}}),
    "LoRA, rank 16": Idea({"lora": {"rank": 16}, "learning_rate": 1e-2}),
    "locked image tower": Idea({"freeze": "vision"}),
    "warm-up of .3": Idea({"scheduler_options": {"num_warmup_steps": 0.3}}),
    "warm-up of .03": Idea({"scheduler_options": {"num_warmup_steps": 0.03}}),
    "AdamW 1e-3": Idea({"optimizer": "AdamW"}),
    "Lion 3e-4": Idea({"optimizer": "AdamW", "learning_rate": 3e-4}, patches=_optimizer(_lion)),
    "schedule-free AdamW 2e-3": Idea(
        {"optimizer": "AdamW", "learning_rate": 2e-3, "scheduler": "constant_with_warmup"},
        callbacks=lambda: [AtTheEnd()],
        patches=_optimizer(_schedule_free),
    ),
    "replay of the pre-training": Idea(replayed=1000),
    "label smoothing .2": Idea({"label_smoothing": 0.2}),
    "label smoothing .1, words in any order": Idea(BOTH),
    "label smoothing .1, a word less": Idea({"label_smoothing": 0.1}, vary=without_a_word),
    "label smoothing .1, words in any order, brightness": Idea(BOTH, patches=_pictures(jittered)),
}


@contextmanager
def applied(idea: Idea, catalogue: Sequence[Product]) -> Iterator[None]:
    """The idea in the place of what cliptune does."""
    texts = [doc.doc.texts for doc in catalogue]
    with ExitStack() as stack:
        for one in idea.patches:
            stack.enter_context(one)
        if idea.by_type:
            order = partial(by_type, [one.article_type for one in catalogue])
            stack.enter_context(patch("cliptune.training.loop.random_order", order))
        if idea.vary:
            with_texts([one.doc for one in catalogue], idea.vary)
        try:
            yield
        finally:
            for one, before in zip(catalogue, texts, strict=True):
                one.doc.texts = before


def main() -> None:
    """Train with each idea that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="with parquet files of products")
    parser.add_argument("out", type=Path, help="the JSON lines of finished runs")
    parser.add_argument("--products", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--only", nargs="+", default=list(IDEAS), choices=list(IDEAS))
    args = parser.parse_args()
    bench = Bench(split_products(read_products(args.folder)), args.out)
    bench.before()
    catalogue = bench.split.catalogue(args.products)
    for seed in args.seeds:
        for name in args.only:
            idea = IDEAS[name]
            more = load_catalogue("catalogue-train")[: idea.replayed] if idea.replayed else []
            with applied(idea, catalogue):
                options = {**WITHOUT, **idea.options}
                bench.run(name, args.products, seed, options, idea.callbacks(), more)


if __name__ == "__main__":
    main()
