"""Model artifacts: a folder or a zip with two tuned towers, checked when it is opened.

Layout::

    config.yml                 the run's options
    metadata.yml               base model, digest, preprocessing, tokenizer, versions
    metrics.yml                before and after
    calibration.yml            how relevant results of a cosine are, where that was measured
    checksums.sha256           of every other file, as `sha256sum -c` reads it
    models/input-map.yml       what each tower takes and gives
    models/network.json        open_clip's config of the network, and the preprocessing (called
                               open_clip_config.json once: open_clip took it, found no weights
                               beside it, and made up random ones)
    models/tokenizer/          only where the vocabulary is not CLIP's own; with it the config of
                               a Hugging Face text tower
    models/clip-text/          metadata.yml, model.safetensors, model.onnx, model.int8.onnx
    models/clip-vision/        the same
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NotRequired, TypedDict, cast

import yaml
from torch import Tensor

from cliptune.data.pictures.preprocessing import ImagePreprocessing, PreprocessingConfig
from cliptune.errors import BadArtifact, BadInput, NotFound
from cliptune.files import new_folder, unzip
from cliptune.models.calibration import Calibration
from cliptune.settings import current

if TYPE_CHECKING:
    from cliptune.models.openclip import OpenClipConfig

TEXT_TOWER: Final = "clip-text"
VISION_TOWER: Final = "clip-vision"
TOWERS = (TEXT_TOWER, VISION_TOWER)
FORMAT = 1
CHECKSUMS = "checksums.sha256"
CALIBRATION = "calibration.yml"
NETWORK: Final = "network.json"
_NETWORK_ONCE: Final = "open_clip_config.json"


class Metadata(TypedDict):
    """What `metadata.yml` says."""

    format: int
    created: str
    base_model: str
    digest: str
    output_dim: int
    activation: str
    preprocessing: PreprocessingConfig
    tokenizer: dict[str, str | int | None]
    onnx: bool
    versions: dict[str, str]
    engines: NotRequired[dict[str, dict[str, object]]]
    """By precision: those that `cliptune quantize` has admitted, with its figures."""


class TowerInterface(TypedDict):
    """What a tower takes and gives, in `input-map.yml`."""

    input: dict[str, object]
    output: dict[str, object]
    cut_to_longest: NotRequired[bool]
    context_length: NotRequired[int]


class Epoch(TypedDict):
    """What a finished epoch of a run came to."""

    epoch: int
    """From 1."""
    loss: float
    learning_rate: float
    val_loss: NotRequired[float]
    """Where there is evaluation data."""
    metrics: NotRequired[dict[str, float]]
    """Of the evaluation callbacks, by their full names."""
    seconds: NotRequired[float]


class RunMetrics(TypedDict, total=False):
    """The figures of a run, as far as it has come; `metrics.yml` of the artifact that it wrote."""

    before: dict[str, float]
    after: dict[str, float]
    epochs: list[Epoch]
    evaluations: dict[str, dict[str, int]]
    """By the towers of an evaluation: how much is searched (`Evaluation.counts()`)."""
    warning: str
    """What is wrong with the run as it stands; empty if nothing is."""


@dataclass(frozen=True)
class Artifact:
    """An opened artifact: its folder, and what its metadata says."""

    path: Path
    metadata: Metadata
    source: Path | None = None
    """What was given to open it, for errors: a zip is unpacked elsewhere."""

    @property
    def digest(self) -> str:
        """The model digest, hex."""
        return self.metadata["digest"]

    @property
    def output_dim(self) -> int:
        """The number of dimensions of its embeddings."""
        return self.metadata["output_dim"]

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """How pictures are prepared for its vision tower."""
        return ImagePreprocessing.from_open_clip(self.metadata["preprocessing"])

    @property
    def model_cfg(self) -> OpenClipConfig:
        """The open_clip config that the towers are built from."""
        models = self.path / "models"
        names = [name for name in (NETWORK, _NETWORK_ONCE) if (models / name).is_file()]
        if not names:
            raise BadArtifact(f"{self._named}: models/{NETWORK} is missing")
        config = json.loads((models / names[0]).read_text())
        model_cfg: OpenClipConfig = config["model_cfg"]
        return model_cfg

    @property
    def input_map(self) -> dict[str, TowerInterface]:
        """What each tower takes and gives, by tower."""
        return cast("dict[str, TowerInterface]", self._read("models/input-map.yml"))

    @property
    def metrics(self) -> RunMetrics:
        """What the run that wrote it measured."""
        return cast("RunMetrics", self._read("metrics.yml"))

    @property
    def config(self) -> dict[str, object]:
        """The options of the run that it comes from, empty if there was none."""
        return self._read("config.yml")

    @property
    def matryoshka(self) -> list[int]:
        """Lengths at which the first numbers of its embeddings were trained to be one too.

        Raises:
            BadArtifact: they are no such lengths.
        """
        lengths = self.config.get("matryoshka") or []
        if not isinstance(lengths, list) or not all(
            type(one) is int and 0 < one < self.output_dim for one in lengths
        ):
            raise BadArtifact(
                f"{self.path}: matryoshka in config.yml is {lengths!r:.200}: expected lengths "
                f"below {self.output_dim}"
            )
        return lengths

    @property
    def has_onnx(self) -> bool:
        """Whether it has ONNX models of its towers."""
        return bool(self.metadata.get("onnx"))

    @property
    def calibration(self) -> Calibration | None:
        """What its cosines mean; None: it was not calibrated.

        Raises:
            BadArtifact: it can't be understood.
        """
        is_there = (self.path / CALIBRATION).is_file()
        return Calibration.parse(self._read(CALIBRATION)) if is_there else None

    def _read(self, name: str) -> dict[str, object]:
        """A file of YAML that holds a mapping; an empty one holds nothing.

        Raises:
            BadArtifact: it can't be read.
        """
        try:
            content = yaml.safe_load((self.path / name).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BadArtifact(f"{self.path}: {name} can't be read: {error}") from error
        if not isinstance(content, dict | None):
            raise BadArtifact(f"{self.path}: {name} holds no mapping but {content!r:.200}")
        return content or {}

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where the tokenizer's own files are, if it has some."""
        folder = self.path / "models" / "tokenizer"
        return folder if folder.is_dir() else None

    def weights(self, tower: str) -> dict[str, Tensor]:
        """The weights of `tower` by their name in open_clip's state dict."""
        from safetensors.torch import load_file

        return load_file(self.path / "models" / tower / "model.safetensors")

    def check_precision(self, precision: str) -> None:
        """Refuse a reduced precision (`int8`, `bf16`) that was not admitted.

        Raises:
            NotFound: `cliptune quantize` has not measured it for this artifact.
        """
        if precision != "fp32" and precision not in self.metadata.get("engines", {}):
            raise NotFound(
                f"{self._named} has no {precision} engine: `cliptune quantize {self._named} "
                f"--precision {precision} --queries QUERIES --out FOLDER` writes it with one, if "
                "its search stays as good; FOLDER is to be given in its place"
            )

    def onnx_path(self, tower: str, precision: str = "fp32") -> Path:
        """The ONNX file of `tower`.

        Raises:
            NotFound: the artifact was made without ONNX, or without that precision.
        """
        if precision == "int8":
            self.check_precision(precision)
            return self.path / "models" / tower / "model.int8.onnx"
        path = self.path / "models" / tower / "model.onnx"
        if not path.is_file():
            raise NotFound(
                f"{self._named} has no ONNX models: `cliptune export {self._named} --format onnx "
                "--out FOLDER` writes it with them, and FOLDER is to be given in its place (runs "
                "with to_onnx=True have them from the start)"
            )
        return path

    def has_more_than(self, other: Artifact) -> bool:
        """Whether it has files that `other` lacks (an engine that was added since, mostly), or
        another calibration.
        """
        own, others = _listed(self.path), _listed(other.path)
        again = own.get(CALIBRATION) not in (None, others.get(CALIBRATION))
        return bool(own.keys() - others.keys()) or again

    @property
    def _named(self) -> Path:
        return self.source or self.path


def is_artifact(path: Path) -> bool:
    """Whether `path` looks like an artifact: a zip, or a folder with a metadata.yml."""
    # By os.path: False for what can be no path, too.
    is_folder = os.path.isfile(path / "metadata.yml")
    return is_folder or (os.path.isfile(path) and path.suffix == ".zip")


def open_artifact(path: str | Path, *, only: tuple[str, ...] = TOWERS) -> Artifact:
    """Open the artifact at `path` (a folder or a zip) and check its files against their sums.

    `only` names the towers whose files are checked (a server of one tower needs not read the
    other's). A zip is unpacked once into the cache folder.

    Raises:
        NotFound: nothing is at `path`.
        BadArtifact: a file is missing, changed, of a newer format, or outside the folder.
    """
    path = Path(path)
    if not path.exists():
        raise NotFound(f"no artifact at {path}")
    if path.is_dir():
        return _open_folder(path, path, only)
    folder = _unzipped(path)
    try:
        return _open_folder(path, folder, only)
    except BadArtifact:
        # What was unpacked earlier may have been damaged since: the zip says what it is.
        with new_folder(folder, replace=True) as beside:
            unzip(path, beside)
        return _open_folder(path, folder, only)


def _open_folder(path: Path, folder: Path, only: tuple[str, ...]) -> Artifact:
    """The artifact in `folder`, which a user knows as `path`."""
    if not (folder / "metadata.yml").is_file() or not (folder / CHECKSUMS).is_file():
        raise BadArtifact(
            f"{path} is not a model artifact: no metadata.yml or no {CHECKSUMS} in it"
        )
    _check_sums(path, folder, only)
    try:
        metadata = yaml.safe_load((folder / "metadata.yml").read_text())
        newer = metadata["format"] > FORMAT
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise BadArtifact(f"{path}: metadata.yml can't be read: {error}") from error
    if newer:
        raise BadArtifact(
            f"{path}: format {metadata['format']} is newer than this cliptune reads ({FORMAT})"
        )
    return Artifact(folder, metadata, path)


def check_tower(select_model: str | None) -> str:
    """`select_model` if it names a tower.

    Raises:
        BadInput: it does not; a CLIP has two towers, so one must be chosen.
    """
    if select_model not in TOWERS:
        raise BadInput(f"select_model is {select_model!r}: use {' or '.join(map(repr, TOWERS))}")
    return select_model


def write_checksums(folder: Path) -> None:
    """Write `checksums.sha256` over all other files of `folder`."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)
    lines = [f"{_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / CHECKSUMS).write_text("".join(lines))


def _listed(folder: Path) -> dict[str, str]:
    """The sums of an artifact's files by their names."""
    lines = (folder / CHECKSUMS).read_text(errors="replace").splitlines()
    return {name: expected for expected, _, name in (line.partition("  ") for line in lines)}


def _check_sums(path: Path, folder: Path, only: tuple[str, ...]) -> None:
    skipped = tuple(f"models/{tower}/model." for tower in TOWERS if tower not in only)
    root = folder.resolve()
    listed = set()
    for line in (folder / CHECKSUMS).read_text(errors="replace").splitlines():
        expected, _, name = line.partition("  ")
        file = folder / name
        if not file.resolve().is_relative_to(root):
            raise BadArtifact(f"{path}: {CHECKSUMS} names a file outside the artifact: {name!r}")
        listed.add(name)
        if name.startswith(skipped):
            continue
        if not file.is_file():
            raise BadArtifact(f"{path}: the file {name} is missing")
        if _sha256(file) != expected:
            raise BadArtifact(
                f"{path}: the file {name} is not what it was when the artifact was written "
                "(its SHA-256 differs); copy the artifact again"
            )
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name != CHECKSUMS and name not in listed:
            raise BadArtifact(f"{path}: the file {name} was added after the artifact was written")


def _unzipped(path: Path) -> Path:
    if not zipfile.is_zipfile(path):
        raise BadArtifact(f"{path} is not a zip file")
    folder = current().cache_dir / "artifacts" / _sha256(path)
    if not folder.is_dir():
        try:
            with new_folder(folder) as beside:
                unzip(path, beside)
        except OSError:
            # Another process may have unpacked it at the same moment: its result is as good.
            if not folder.is_dir():
                raise
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
