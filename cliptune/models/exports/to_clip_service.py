"""Plugging a model into clip-as-service: a folder that its ONNX server takes as `model_path`.

That server (0.8.3) brings its own tokenizer and preprocessing, and takes from the folder

- `textual.onnx`: `input_ids` int32 [N, 77] and `attention_mask` int32 [N, 77] to [N, D];
- `visual.onnx`: `pixel_values` float32 [N, 3, H, W] to [N, D],

where the `name` in its YAML says which tokenizer, and which size of pictures. So models with CLIP's
own vocabulary, 77 tokens and one of its sizes can be plugged in. What differs beyond that is put
into the graphs: the model's own mean and standard deviation; text cut to the longest of its batch
where that is exact, which makes titles several times faster there too; and unit length, so that its
embeddings are those of this package.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptune.data.pictures.preprocessing import ImagePreprocessing
from cliptune.errors import BadInput
from cliptune.files import new_folder
from cliptune.models.loading import ClipModel
from cliptune.models.onnx import export_module
from cliptune.models.tokenizers import SimpleTokenizer

CONTEXT = 77
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""What the server normalises pictures by, whatever the model."""
NAMES = {
    224: "ViT-B-32::openai",
    240: "ViT-B-16-plus-240::laion400m_e32",
    288: "RN50x4::openai",
    336: "ViT-L-14-336::openai",
    384: "RN50x16::openai",
    448: "RN50x64::openai",
}
"""By the size of its pictures, a name to give the server: it takes tokenizer and size from it."""
_PROBES = ["Red RAIN boots &amp; more", "  ein grüner Schuh 👢\n", "x" * 300]
_FLOW = """\
# clip-as-service 0.8.3 with the model of this folder. Start it here:
#   python -m clip_server flow.yml
jtype: Flow
version: '1'
with:
  port: 51000
executors:
  - name: clip_o
    uses:
      jtype: CLIPEncoder
      metas:
        py_modules:
          - clip_server.executors.clip_onnx
      with:
        name: '{name}'
        model_path: .
    timeout_ready: 3000000
    replicas: 1
"""


def write_clip_service(model: ClipModel, folder: Path) -> str:
    """Write `model` as such a folder, whole or not at all, with a `flow.yml` to start it by.

    Returns: the `name` that the server must be given.

    Raises:
        BadInput: the model doesn't fit; the message says why.
    """
    name = server_name(model)
    text = _Text(model.text_module)
    vision = _Vision(model.vision_module, model.preprocessing)
    tokens = torch.zeros(2, CONTEXT, dtype=torch.int32)
    # Two rows that differ, so that nothing of a row is traced as a constant.
    tokens[0, :3] = torch.tensor([1, 2, 5])
    tokens[1, :4] = torch.tensor([1, 3, 4, 5])
    pixels = torch.zeros(2, 3, *model.preprocessing.size)
    with new_folder(folder) as beside:
        export_module(
            text,
            {"input_ids": tokens, "attention_mask": (tokens != 0).int()},
            beside / "textual.onnx",
            {"input_ids": {0: "batch"}, "attention_mask": {0: "batch"}},
        )
        export_module(
            vision, {"pixel_values": pixels}, beside / "visual.onnx", {"pixel_values": {0: "batch"}}
        )
        (beside / "flow.yml").write_text(_FLOW.format(name=name))
        (beside / "model_digest.txt").write_text(f"{model.digest}\n")
    return name


def server_name(model: ClipModel) -> str:
    """The `name` by which the server prepares texts and pictures as `model` needs them.

    Raises:
        BadInput: there is none; the message says why.
    """
    wrong = []
    if not _has_clips_tokens(model):
        wrong.append("its tokenizer is not CLIP's own, which the server brings")
    if model.context_length != CONTEXT:
        wrong.append(f"it reads {model.context_length} tokens, and the server sends {CONTEXT}")
    prepared = model.preprocessing
    height, width = prepared.size
    if height != width or height not in NAMES:
        sizes = ", ".join(map(str, NAMES))
        wrong.append(f"its pictures are {height} x {width}, and the server's one of {sizes}")
    if (prepared.interpolation, prepared.resize_mode) != ("bicubic", "shortest"):
        wrong.append(
            f"its pictures are resized by {prepared.interpolation}, {prepared.resize_mode}, and "
            "the server does so by bicubic, shortest"
        )
    if wrong:
        raise BadInput(
            f"{model.name} can't be plugged into clip-as-service: {'; '.join(wrong)}. "
            "`cliptune serve` serves it, to clip-as-service's clients too"
        )
    return NAMES[height]


def _has_clips_tokens(model: ClipModel) -> bool:
    if not isinstance(model.tokenizer, SimpleTokenizer):
        return False
    own = SimpleTokenizer(context_length=model.context_length)
    return torch.equal(model.tokenizer(_PROBES), own(_PROBES)) and (
        model.tokenizer.encoder == own.encoder
    )


class _Text(nn.Module):
    """The text tower with the server's inputs."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.cuttable = bool(tower.cuttable)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed `input_ids` [N, 77], 0 where `attention_mask` is; returns unit vectors [N, D]."""
        tokens = input_ids.long() * attention_mask.long()
        if self.cuttable:
            tokens = tokens[:, : attention_mask.long().sum(dim=1).max()]
        return F.normalize(self.tower(tokens), dim=-1)


class _Vision(nn.Module):
    """The vision tower for pictures that were normalised by the server's mean and deviation."""

    scale: Tensor
    shift: Tensor

    def __init__(self, tower: nn.Module, preprocessing: ImagePreprocessing) -> None:
        super().__init__()
        self.tower = tower
        mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
        own_mean, own_std = (
            torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std)
        )
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed `pixel_values` [N, 3, H, W]; returns unit vectors [N, D]."""
        return F.normalize(self.tower(pixel_values * self.scale + self.shift), dim=-1)
