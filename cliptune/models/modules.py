"""The two towers of an open_clip model as plain modules, and the text tower without its padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from cliptune.models.openclip import open_clip

TextTransformer = open_clip.transformer.TextTransformer


class TextModule(nn.Module):
    """The text tower of an open_clip model: tokens int64 [N, L] to embeddings [N, D].

    open_clip's own `encode_text` insists on the full context length (77). In a causal tower that
    pools at the end-of-text token, nothing after that token can change the result, so L may be
    as short as the batch's longest text: the positional embedding and the causal mask are sliced
    along. `cuttable` says whether that holds for this tower; towers that attend to their padding
    (SigLIP's) need the full length.
    """

    def __init__(self, clip: nn.Module) -> None:
        """Wrap `clip` (an open_clip `CLIP` or `CustomTextCLIP`), sharing its parameters."""
        super().__init__()
        self.clip = clip
        tower = text_tower(clip)
        self._is_hf = isinstance(tower, open_clip.hf_model.HFTextEncoder)
        self._pool_type = getattr(tower, "pool_type", None) or getattr(tower, "text_pool_type", "")
        self._eos_id = getattr(tower, "eos_id", None) or getattr(tower, "text_eos_id", None)
        plain = not isinstance(tower, TextTransformer) or (
            tower.cls_emb is None and not tower.use_pad_mask
        )
        causal = getattr(tower, "attn_mask", None) is not None
        self._sliceable = not self._is_hf and plain and causal
        self.cuttable = self._is_hf or (self._sliceable and self._pool_type in ("argmax", "eos"))

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed `tokens` (int64 [N, L]); returns [N, D], not normalised."""
        tower = text_tower(self.clip)
        if not self._sliceable:
            encode = self.clip.encode_text if tower is self.clip else tower
            embeddings: Tensor = encode(tokens)
            return embeddings
        length = tokens.shape[1]
        dtype = tower.transformer.get_cast_dtype()
        x: Tensor = tower.token_embedding(tokens).to(dtype)
        x = x + tower.positional_embedding[:length].to(dtype)
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        x = tower.ln_final(x)
        x = open_clip.transformer.text_global_pool(
            x, tokens, self._pool_type, eos_token_id=self._eos_id
        )
        projection = tower.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return x


def text_tower(clip: nn.Module) -> Any:
    """What holds the text tower's parts: a CLIP itself, or the `.text` of a CustomTextCLIP."""
    return getattr(clip, "text", clip)


class VisionModule(nn.Module):
    """The vision tower of an open_clip model: pixels [N, 3, H, W] to embeddings [N, D]."""

    def __init__(self, clip: nn.Module) -> None:
        """Wrap `clip`, sharing its parameters."""
        super().__init__()
        self.visual: nn.Module = clip.visual  # type: ignore[assignment]

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed normalised `pixels` (float [N, 3, H, W]); returns [N, D], not normalised."""
        embeddings: Tensor = self.visual(pixels)
        return embeddings


class Head:
    """The projection at the end of a tower; what comes before it is the tower's trunk."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        """The head is the parameter or module `name` of `owner`."""
        self._owner, self._name = owner, name

    @classmethod
    def of_text(cls, clip: nn.Module) -> Head:
        """The text tower's."""
        owner = text_tower(clip)
        return cls(owner, "proj" if hasattr(owner, "proj") else "text_projection")

    @classmethod
    def of_vision(cls, clip: nn.Module) -> Head:
        """The vision tower's; CLIP's own ResNets have none, and their trunk is all."""
        visual = VisionModule(clip).visual
        return cls(visual, "head" if hasattr(visual, "trunk") else "proj")

    def __call__(self, features: Tensor) -> Tensor:
        """Project the trunk's output [N, width] to embeddings [N, D], not normalised."""
        head = getattr(self._owner, self._name, None)
        if head is not None:
            features = head(features) if isinstance(head, nn.Module) else features @ head
        return features

    def parameters(self) -> list[nn.Parameter]:
        """The head's own."""
        head = getattr(self._owner, self._name, None)
        if isinstance(head, nn.Module):
            return list(head.parameters())
        return [] if head is None else [head]

    @contextmanager
    def taken_off(self) -> Iterator[None]:
        """Meanwhile the tower gives its trunk's output."""
        head = getattr(self._owner, self._name, None)
        setattr(self._owner, self._name, nn.Identity() if isinstance(head, nn.Module) else None)
        try:
            yield
        finally:
            setattr(self._owner, self._name, head)


def cut_to_longest(tokens: Tensor, pad_id: int = 0) -> Tensor:
    """Drop the trailing columns of `tokens` (int [N, L]) that are padding in every row."""
    used = (tokens != pad_id).any(dim=0).nonzero()
    return tokens[:, : int(used[-1]) + 1] if len(used) else tokens[:, :1]


def split_state(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a CLIP state dict in the text tower's part and the vision tower's (`visual.*`).

    What both share (the logit scale and bias) goes with the text tower, so that the two parts
    together are the whole model.
    """
    vision = {name: value for name, value in state.items() if name.startswith("visual.")}
    text = {name: value for name, value in state.items() if name not in vision}
    return text, vision
