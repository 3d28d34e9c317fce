"""One optimisation step on one batch: its loss and gradients, in the memory of a part of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cliptune.errors import BadInput, CliptuneError
from cliptune.files import write_text
from cliptune.models.loading import ClipModel
from cliptune.models.modules import Head, cut_to_longest
from cliptune.training.batches.augmentation import crop, draw_crops, to_input
from cliptune.training.batches.pairs import Batch
from cliptune.training.distributed import World
from cliptune.training.losses import Loss
from cliptune.training.state import Training

_STRIP = 256
"""How many rows of the N x N similarities are in memory at a time."""


class Objective:
    """The contrastive loss of a batch over both towers, by gradient caching.

    Gao et al., "Scaling deep contrastive learning batch size under memory limited setup", 2021:
    the loss needs all embeddings of a batch, but its gradient with respect to each embedding is
    all that a tower needs of it. So (1) embed the batch in parts of `micro_batch_size`, keeping
    nothing else, (2) take the loss and its gradients at the embeddings, (3) embed each part
    again and go back from there. The gradients are those of the whole batch at once. A batch
    that is one part is embedded once.

    With several processes each embeds its part of the batch, all embeddings are gathered, each
    process takes the loss of its rows, and the gradients are added up.

    With `matryoshka` the loss is the mean of those of the whole embeddings and of their first
    numbers, each made to unit length anew (Kusupati et al., "Matryoshka representation learning",
    2022, with equal weights).
    """

    def __init__(
        self,
        model: ClipModel,
        loss: Loss,
        device: torch.device,
        *,
        micro_batch_size: int,
        autocast: torch.dtype | None = None,
        min_area: float = 1.0,
        flip: bool = False,
        matryoshka: Sequence[int] = (),
        world: World | None = None,
    ) -> None:
        """Prepare for batches of pairs.

        Args:
            model: both towers; parameters without `requires_grad` get no gradients.
            loss: see `cliptune.training.losses`.
            device: where the model is.
            micro_batch_size: how many pairs go through the towers at once, in each process.
            autocast: the dtype to compute the towers in, None for fp32.
            min_area: the least part of a picture that a random crop keeps.
            flip: mirror half of the pictures.
            matryoshka: lengths of embeddings' beginnings that are trained as embeddings too.
            world: the processes that share each batch.

        Raises:
            BadInput: one of `matryoshka` is no beginning of the model's embeddings.
        """
        self.model = model
        self.loss = loss
        self.device = device
        self.micro_batch_size = micro_batch_size
        self.autocast = autocast
        self.min_area, self.flip = min_area, flip
        whole = model.output_dim
        if matryoshka and matryoshka[-1] >= whole:
            raise BadInput(
                f"matryoshka is {list(matryoshka)}: use lengths below {whole}, that of the model's "
                "embeddings"
            )
        self.lengths = (*matryoshka, whole)
        self.world = world or World()
        self._vision, self._text = model.vision_module, model.text_module
        self._vision_head, self._text_head = Head.of_vision(model.clip), Head.of_text(model.clip)
        self._trained = [p for p in model.clip.parameters() if p.requires_grad]

    def backward(self, batch: Batch, seed: int, factor: float = 1.0) -> float:
        """Add the gradients of `factor` times the loss to the parameters; returns the loss.

        `seed` decides on crops and dropout: the same in all processes.
        """
        generator = torch.Generator().manual_seed(seed)
        crops = draw_crops(len(batch), min_area=self.min_area, flip=self.flip, generator=generator)
        crops = None if crops is None else crops[batch.here]
        parts = list(self._parts(batch))
        kept = [self._embed(batch, parts[0], crops, seed)] if len(parts) == 1 else None
        with torch.no_grad():
            embedded = kept or [self._embed(batch, part, crops, seed) for part in parts]
        images, texts = (
            self.world.gather(torch.cat([pair[i].detach() for pair in embedded]), len(batch))
            for i in (0, 1)
        )
        loss = self._loss_backward(images.requires_grad_(), texts.requires_grad_(), batch, factor)
        own_gradients = [_gradient(images)[batch.here], _gradient(texts)[batch.here]]
        for number, part in enumerate(parts):
            pair = kept[number] if kept else self._embed(batch, part, crops, seed)
            learning = [i for i in (0, 1) if pair[i].requires_grad]
            if learning:  # an embedding by a frozen tower has nowhere to go back to
                torch.autograd.backward(
                    [pair[i] for i in learning], [own_gradients[i][part] for i in learning]
                )
        self._add_up_gradients()
        return loss

    @torch.no_grad()
    def value(self, batch: Batch) -> float:
        """The loss of `batch` (all of it in this process) without crops."""
        images, texts = self.embeddings(batch)
        strips = _strips(slice(0, len(batch)))
        return float(sum(self._strip_loss(images, texts, batch, rows) for rows in strips))

    def embeddings(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(image, text) embeddings [N, D] of `batch`, of unit length, without gradients."""
        with torch.no_grad():
            embedded = [self._embed(batch, part, None, 0) for part in self._parts(batch)]
        return torch.cat([i for i, _ in embedded]), torch.cat([t for _, t in embedded])

    def _parts(self, batch: Batch) -> Iterator[slice]:
        """This process's pairs in slices of at most `micro_batch_size`."""
        count = batch.here.stop - batch.here.start
        for start in range(0, count, self.micro_batch_size):
            yield slice(start, min(start + self.micro_batch_size, count))

    def _embed(
        self, batch: Batch, part: slice, crops: Tensor | None, seed: int
    ) -> tuple[Tensor, Tensor]:
        """(image, text) embeddings of a part of the batch, float32 [n, D] of unit length."""
        # The same dropout both times that a part goes through the towers.
        torch.manual_seed(seed + batch.here.start + part.start)
        with torch.autocast(
            self.device.type, dtype=self.autocast, enabled=self.autocast is not None
        ):
            if batch.image_features is not None:
                images = self._vision_head(batch.image_features[part].to(self.device))
            else:
                x = to_input(batch.pixels[part], self.model.preprocessing, self.device)  # type: ignore[index]
                images = self._vision(crop(x, None if crops is None else crops[part]))
            if batch.text_features is not None:
                texts = self._text_head(batch.text_features[part].to(self.device))
            else:
                tokens = batch.tokens[part].to(self.device)  # type: ignore[index]
                texts = self._text(cut_to_longest(tokens) if self._text.cuttable else tokens)
        return F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)

    def _loss_backward(self, images: Tensor, texts: Tensor, batch: Batch, factor: float) -> float:
        """The loss; its gradients are left at the embeddings, complete in every process."""
        total = torch.zeros((), device=self.device)
        for rows in _strips(batch.here):
            strip = self._strip_loss(images, texts, batch, rows)
            torch.autograd.backward(factor * strip)
            total += strip.detach()
        self.world.sum_all_([total, _gradient(images), _gradient(texts)])
        return total.item()

    def _strip_loss(self, images: Tensor, texts: Tensor, batch: Batch, rows: slice) -> Tensor:
        clip = self.model.clip
        bias = getattr(clip, "logit_bias", None)
        labels = batch.labels.to(self.device)
        weights = None if batch.weights is None else batch.weights.to(self.device)
        scale, total = clip.logit_scale.exp(), torch.zeros((), device=self.device)
        for length in self.lengths:
            ours, theirs = images, texts
            if length < images.shape[1]:
                ours, theirs = (F.normalize(e[:, :length], dim=-1) for e in (images, texts))
            total = total + self.loss(ours, theirs, labels, scale, bias, rows, weights)
        return total / len(self.lengths)

    def _add_up_gradients(self) -> None:
        if self.world.size > 1:
            for parameter in self._trained:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self.world.sum_all_([_gradient(parameter) for parameter in self._trained])


def _strips(rows: slice) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, _STRIP):
        yield slice(start, min(start + _STRIP, rows.stop))


def _gradient(tensor: Tensor | nn.Parameter) -> Tensor:
    assert tensor.grad is not None  # noqa: S101 - for the type checker
    return tensor.grad


MAX_LOGIT_SCALE = math.log(100)
"""The bound on the logit scale's logarithm, from the CLIP paper: training is unstable above."""


class TrainingFailed(CliptuneError):
    """Training can't go on, such as after a loss that is not a number."""


class Step:
    """Trains on one batch: gradients, clipping, the optimizer, the schedule."""

    def __init__(
        self, training: Training, objective: Objective, optimizer: Optimizer, schedule: LambdaLR
    ) -> None:
        """Step `optimizer` and then `schedule` by the gradients of `objective`."""
        self.training = training
        self.objective = objective
        self.optimizer = optimizer
        self.schedule = schedule
        self.trainable = [p for p in training.model.clip.parameters() if p.requires_grad]
        self.scaler = torch.amp.GradScaler(
            training.device.type, enabled=objective.autocast is torch.float16
        )

    def __call__(self, batch: Batch, seed: int, ids: list[str]) -> float:
        """Train on `batch`; returns its loss. `ids` are those of all pairs.

        Raises:
            TrainingFailed: the loss or its gradients are not finite; `bad-batch.json` tells the
                batch.
        """
        training = self.training
        training.learning_rate = float(max(self.schedule.get_last_lr()))
        loss, norm = self.gradients(batch, seed)
        if not math.isfinite(loss):
            self._fail("the loss", loss, [ids[i] for i in batch.positions])
        # fp16's scaler skips such a step, and scales less from then on.
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            self._fail("the gradients' norm", norm, [ids[i] for i in batch.positions])
        self.apply()
        self.schedule.step()
        training.last_loss = loss
        training.global_step += 1
        return loss

    def gradients(self, batch: Batch, seed: int) -> tuple[float, float]:
        """Leave the clipped gradients of `batch` at the parameters; returns its loss and their norm
        before they were clipped."""
        self.optimizer.zero_grad(set_to_none=True)
        # The scaler's own scale exists only once it has scaled something; 1 where it is off.
        factor = self.scaler.scale(torch.ones((), device=self.training.device)).item()
        loss = self.objective.backward(batch, seed, factor)
        self.scaler.unscale_(self.optimizer)
        most = self.training.options.max_grad_norm or math.inf
        return loss, nn.utils.clip_grad_norm_(self.trainable, most).item()

    def apply(self) -> None:
        """Change the parameters by their gradients."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            self.training.model.clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def _fail(self, what: str, value: float, ids: list[str]) -> None:
        position, rate = self.training.position, self.training.learning_rate
        where = {"epoch": position.epoch + 1, "step": position.step + 1, "learning_rate": rate}
        path = self.training.run_dir / "bad-batch.json"
        if self.training.world.is_first:
            content = {**where, "why": f"{what} is {value}", "ids": ids}
            write_text(path, json.dumps(content, indent=2))
        raise TrainingFailed(
            f"{what} is {value} in epoch {where['epoch']} at step {where['step']} (learning rate "
            f"{rate:.2g}): try a lower learning rate; the batch's ids are in {path.name}"
        )
