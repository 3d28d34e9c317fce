"""From decoded pictures to the vision tower's input: normalised, cropped and mirrored at random."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptune.data.pictures.preprocessing import ImagePreprocessing


def to_input(pixels: Tensor, preprocessing: ImagePreprocessing, device: torch.device) -> Tensor:
    """uint8 [N, H, W, 3] to the vision tower's input, float32 [N, 3, H, W], on `device`."""
    x = pixels.to(device).permute(0, 3, 1, 2).float().div_(255)
    mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
    x = x.sub_(mean).div_(std)
    return x.contiguous(memory_format=torch.channels_last)


def draw_crops(n: int, *, min_area: float, flip: bool, generator: torch.Generator) -> Tensor | None:
    """Random crops of `n` pictures as affine maps, float32 [n, 2, 3]; None if nothing is asked for.

    A crop keeps between `min_area` and all of the area at the picture's aspect ratio; with
    `flip` half of them are mirrored.
    """
    if min_area == 1 and not flip:
        return None
    area = torch.empty(n).uniform_(min_area, 1, generator=generator)
    scale = area.sqrt()
    shift_x, shift_y = (torch.empty(2, n).uniform_(-1, 1, generator=generator)) * (1 - scale)
    mirror = torch.ones(n)
    if flip:
        mirror -= 2 * (torch.rand(n, generator=generator) < 0.5).float()
    zero = torch.zeros(n)
    return torch.stack(
        [torch.stack([scale * mirror, zero, shift_x], 1), torch.stack([zero, scale, shift_y], 1)], 1
    )


def crop(x: Tensor, crops: Tensor | None) -> Tensor:
    """Take `crops` [N, 2, 3] out of the pictures `x` [N, 3, H, W], scaled back bilinearly.

    All pictures in one call: open_clip's RandomResizedCrop, batched.
    """
    if crops is None:
        return x
    grid = F.affine_grid(crops.to(x.device), list(x.shape), align_corners=False)
    cropped = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return cropped.contiguous(memory_format=torch.channels_last)
