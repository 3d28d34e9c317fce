"""Faster engines for an artifact, admitted only if its search stays as good."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import yaml
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, CliptuneError
from cliptune.evaluation.search_task import SearchTask
from cliptune.files import new_folder
from cliptune.inference.engines import both_towers, possible_engines
from cliptune.models.artifact import TOWERS, Artifact, Metadata, open_artifact, write_checksums
from cliptune.models.loading import load_model
from cliptune.models.onnx import export_towers, quantize_to_int8

K = 10
Reduced = Literal["int8", "bf16"]
"""int8 is for CPUs; bf16 for GPUs, and CPUs that compute in bfloat16."""
log = logging.getLogger("cliptune")


class QualityLost(CliptuneError):
    """A faster engine finds too much less; the message has the figures."""

    http_status = 422


@dataclass(frozen=True)
class GateResult:
    """recall@10 of an artifact in a reduced precision on one evaluation set."""

    precision: str
    engines: tuple[str, ...]
    """Those that computed in it; of their figures these are the worst."""
    fp32: float
    """Both towers in float32."""
    reduced: float
    """Both towers in the reduced precision."""
    mixed: float
    """Reduced queries on an index of float32 embeddings: what follows an upgrade in place."""
    tolerance: float
    """The part of fp32's recall that may be lost."""
    queries: int
    index: int
    without_answers: int = 0
    """Queries that have no right answer in the index; they count as 0 throughout."""

    def counts(self) -> dict[str, int]:
        """As `Evaluation.counts`."""
        return {
            "n_queries": self.queries,
            "n_index": self.index,
            "n_without_answers": self.without_answers,
        }

    @property
    def passed(self) -> bool:
        """Whether neither figure is more than `tolerance` below fp32's."""
        return min(self.reduced, self.mixed) >= (1 - self.tolerance) * self.fp32


def add_engine(
    artifact: str | Path,
    out: Path,
    precision: Reduced,
    query_docs: DocList[ClipDoc],
    index_docs: DocList[ClipDoc] | None = None,
    *,
    tolerance: float = 0.01,
    device: str | None = None,
    pixel_cache: Path | None = None,
) -> GateResult:
    """Write `artifact` to the folder `out` with a reduced precision admitted, if it is as good.

    It must be by each engine that runs the precision on this machine. The result is kept in the
    artifact's metadata, under `engines`; `get_tower` and the servers take `precision` where it is
    there.

    Args:
        artifact: a folder or a zip; one without ONNX gets the float32 ONNX models too. For bf16 it
            stays without them if the model can't be exported: then torch alone will run it.
        out: the new artifact's folder.
        precision: `int8` or `bf16`.
        query_docs: with texts, and labels or titles that say which pictures are right.
        index_docs: the pictures; None: those of `query_docs`, each once.
        tolerance: the part of fp32's recall@10 that may be lost, in [0, 1).
        device: where bf16 is measured; int8 is for the CPU.
        pixel_cache: a folder for decoded pictures; without one they are kept in memory.

    Raises:
        QualityLost: more is lost; nothing is written.
        BadInput: `tolerance` is out of range, or what `evaluate` refuses.
    """
    if not 0 <= tolerance < 1:
        raise BadInput(f"tolerance is {tolerance}: use a part of 1, such as 0.01")
    source = open_artifact(artifact)
    with new_folder(out) as beside:
        shutil.copytree(source.path, beside, dirs_exist_ok=True)
        added = Artifact(beside, source.metadata)
        if precision == "int8":
            _add_onnx(added, str(artifact))
            _add_int8(added)
        else:
            try:
                _add_onnx(added, str(artifact))
            except RuntimeError as error:  # of torch's exporter
                log.warning("it stays without ONNX, so that torch alone runs bf16: %s", error)
        # Not yet admitted, so that it may be measured.
        _register(beside, precision, {})
        result = _measure(
            beside,
            precision,
            query_docs,
            query_docs if index_docs is None else index_docs,
            tolerance,
            device,
            pixel_cache,
        )
        if not result.passed:
            raise QualityLost(
                f"{precision} is not admitted: recall@{K} by {' or '.join(result.engines)} is "
                f"{result.reduced:.4f} (and {result.mixed:.4f} on an fp32 index) against "
                f"{result.fp32:.4f} in fp32, which is more than {tolerance:.1%} less; nothing was "
                "written"
            )
        _register(beside, precision, {**asdict(result), "metric": f"recall@{K}"})
    return result


def _add_onnx(artifact: Artifact, name: str) -> None:
    """Write the float32 ONNX models of the model `name`, if they are missing."""
    if artifact.has_onnx:
        return
    try:
        export_towers(load_model(name), artifact.path / "models")
    except RuntimeError:
        for tower in TOWERS:
            (artifact.path / "models" / tower / "model.onnx").unlink(missing_ok=True)
        raise
    artifact.metadata["onnx"] = True
    _write_metadata(artifact.path, artifact.metadata)


def _add_int8(artifact: Artifact) -> None:
    for tower in TOWERS:
        fp32 = artifact.path / "models" / tower / "model.onnx"
        quantize_to_int8(fp32, fp32.with_name("model.int8.onnx"))


def _register(folder: Path, precision: str, figures: dict[str, object]) -> None:
    metadata: Metadata = yaml.safe_load((folder / "metadata.yml").read_text())
    metadata.setdefault("engines", {})[precision] = figures
    _write_metadata(folder, metadata)


def _write_metadata(folder: Path, metadata: Metadata) -> None:
    (folder / "metadata.yml").write_text(yaml.safe_dump(metadata, sort_keys=False))
    write_checksums(folder)


def _measure(
    folder: Path,
    precision: Reduced,
    queries: DocList[ClipDoc],
    index: DocList[ClipDoc],
    tolerance: float,
    device: str | None,
    pixel_cache: Path | None,
) -> GateResult:
    exact = both_towers(folder, precision="fp32", device=device)
    task = SearchTask.prepare(*exact, queries, index, pixel_cache=pixel_cache)
    texts, pictures = task.embed(*exact)
    fp32 = task.measure(texts, pictures, limit=K)
    where = "cpu" if precision == "int8" else device
    engines = possible_engines(open_artifact(folder), precision, where)
    reduced, mixed = [], []
    for engine in engines:
        towers = both_towers(folder, engine=engine, precision=precision, device=where)
        fast_texts, fast_pictures = task.embed(*towers)
        reduced.append(task.measure(fast_texts, fast_pictures, limit=K).metrics["recall_at_k"])
        mixed.append(task.measure(fast_texts, pictures, limit=K).metrics["recall_at_k"])
    return GateResult(
        precision=precision,
        engines=tuple(engines),
        fp32=fp32.metrics["recall_at_k"],
        reduced=min(reduced),
        mixed=min(mixed),
        tolerance=tolerance,
        queries=fp32.n_queries,
        index=fp32.n_index,
        without_answers=fp32.n_without_answers,
    )
