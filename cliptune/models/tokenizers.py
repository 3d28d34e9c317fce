"""From texts to tokens: the tokenizer that belongs to a model config."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from cliptune.data.equivalence import TextKeys
from cliptune.errors import BadInput, Unavailable
from cliptune.models.openclip import TextConfig, open_clip

HFTokenizer = open_clip.tokenizer.HFTokenizer
SimpleTokenizer = open_clip.tokenizer.SimpleTokenizer

MERGES_FILE = "bpe.txt.gz"
_AT_ONCE = 4096


class Tokenizer(Protocol):
    """What open_clip's tokenizers have in common."""

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Tokens int64 [N, context_length], padded; longer texts are cut."""
        ...


def load_tokenizer(text_cfg: TextConfig, folder: Path | None = None) -> Tokenizer:
    """The tokenizer that an open_clip `text_cfg` asks for.

    `folder` may hold its files: `bpe.txt.gz` (merges of CLIP's byte-pair encoding, when the
    vocabulary is not CLIP's own), or a Hugging Face tokenizer's files.

    Raises:
        Unavailable: a Hugging Face tokenizer can't be loaded here.
    """
    context_length = int(text_cfg.get("context_length", 77))
    hf_name = text_cfg.get("hf_tokenizer_name")
    kwargs = dict(text_cfg.get("tokenizer_kwargs") or {})
    if not hf_name:
        merges = folder / MERGES_FILE if folder else None
        kwargs["bpe_path"] = (
            str(merges) if merges and merges.is_file() else open_clip.tokenizer.default_bpe()
        )
        own: Tokenizer = SimpleTokenizer(context_length=context_length, **kwargs)
        return own
    if language := kwargs.get("language"):  # transformers 5 keeps to what it was made with
        kwargs["src_lang"] = language
    if folder and has_tokenizer(folder):
        hf_name = str(folder)
    try:
        from_hub: Tokenizer = HFTokenizer(
            hf_name,
            context_length=context_length,
            tokenizer_mode=text_cfg.get("tokenizer_mode"),
            **kwargs,
        )
    except (OSError, ImportError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        if "trust_remote_code" in str(error):
            raise BadInput(
                f"the tokenizer {hf_name!r} is a program of the repository's own, and not run: "
                "choose a model with one of transformers' tokenizers"
            ) from error
        raise Unavailable(
            f"the tokenizer {hf_name!r} can't be loaded ({words}): "
            "install cliptune[hf], and where no hub can be reached put the tokenizer's files "
            "(tokenizer_config.json and what goes with it) beside the weights: into the model's "
            "folder, or where FILE of ARCH::TAG::FILE is"
        ) from error
    return from_hub


def has_tokenizer(folder: Path) -> bool:
    """Whether a Hugging Face tokenizer's files are in `folder`."""
    return any((folder / f).is_file() for f in ("tokenizer_config.json", "tokenizer.json"))


def save_tokenizer(tokenizer: Tokenizer, folder: Path, source: Path | None) -> None:
    """Keep what `load_tokenizer` needs in `folder`; nothing if CLIP's own vocabulary is used.

    `source` is the folder that the tokenizer came from, if it came from one.
    """
    if isinstance(tokenizer, HFTokenizer):
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(str(folder))
    elif source is not None and (source / MERGES_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / MERGES_FILE, folder / MERGES_FILE)


def save_text_config(clip: nn.Module, folder: Path) -> None:
    """Keep a Hugging Face text tower's own config in `folder`; nothing for other towers.

    An artifact needs it to be opened where the model's folder, or the hub, is out of reach.
    """
    config = getattr(getattr(clip, "text", None), "config", None)
    if config is not None and hasattr(config, "save_pretrained"):
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(folder))


def token_count(tokenizer: Tokenizer, text: str) -> int:
    """How many tokens `text` has before it is cut, begin and end marks included."""
    if isinstance(tokenizer, SimpleTokenizer):
        return len(tokenizer.encode(text)) + 2
    inner = getattr(tokenizer, "tokenizer", None)
    return len(inner(text)["input_ids"]) if inner is not None else 0


def describe_tokenizer(tokenizer: Tokenizer, text_cfg: TextConfig) -> dict[str, str | int | None]:
    """What an artifact's metadata says about its tokenizer (JSON-able)."""
    name = text_cfg.get("hf_tokenizer_name") or "clip-bpe"
    return {
        "name": name,
        "context_length": int(text_cfg.get("context_length", 77)),
        "vocab_size": int(getattr(tokenizer, "vocab_size", 0)) or text_cfg.get("vocab_size"),
    }


def token_keys(tokenizer: Tokenizer, context_length: int) -> TextKeys:
    """Texts are the same if their tokens are, cut to `context_length`."""

    def keys(texts: list[str]) -> list[bytes]:
        by_text: list[bytes] = []
        for start in range(0, len(texts), _AT_ONCE):
            by_text += keys_of_tokens(tokenizer(texts[start : start + _AT_ONCE], context_length))
        return by_text

    return keys


def clip_keys() -> TextKeys:
    """Texts are the same if CLIP's own tokens are, cut to its context of 77."""
    return token_keys(load_tokenizer({}), 77)


def keys_of_tokens(tokens: Tensor) -> list[bytes]:
    """Tokens int64 [N, L] of N texts, all padded alike, to what is equal where they are."""
    return [row.tobytes() for row in tokens.numpy().astype(np.int32)]
