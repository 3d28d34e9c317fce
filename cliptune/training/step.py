"""One optimisation step on one batch."""

from __future__ import annotations

import json
import math

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cliptune.errors import CliptuneError
from cliptune.files import write_text
from cliptune.training.batches import Batch
from cliptune.training.objective import Objective
from cliptune.training.state import Training

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
        training, options = self.training, self.training.options
        training.learning_rate = float(max(self.schedule.get_last_lr()))
        self.optimizer.zero_grad(set_to_none=True)
        # The scaler's own scale exists only once it has scaled something; 1 where it is off.
        factor = self.scaler.scale(torch.ones((), device=training.device)).item()
        loss = self.objective.backward(batch, seed, factor)
        if not math.isfinite(loss):
            self._fail("the loss", loss, [ids[i] for i in batch.positions])
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trainable, options.max_grad_norm or math.inf).item()
        # fp16's scaler skips such a step, and scales less from then on.
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            self._fail("the gradients' norm", norm, [ids[i] for i in batch.positions])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        with torch.no_grad():
            training.model.clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        training.last_loss = loss
        training.global_step += 1
        return loss

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
