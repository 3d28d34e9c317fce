"""From a table to the best model that trials find: parts, trials, soup, WiSE-FT, an honest figure.

Every choice is made by the validation part: the trials', the soup's and alpha. The test part is
searched once, at the end, by the model before, the defaults' model and the chosen one.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from docarray import DocList

from cliptune.data.division import divide
from cliptune.data.equivalence import KeyedDocs
from cliptune.documents import ClipDoc
from cliptune.errors import BadData
from cliptune.evaluation.bootstrap import Change, compare_means
from cliptune.evaluation.search_task import SearchTask
from cliptune.evaluation.wise_ft import Rule, sweep
from cliptune.files import write_text
from cliptune.inference.engines import both_towers
from cliptune.models.artifact import RunMetrics
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import ClipModel, load_model, pick_device
from cliptune.models.tokenizers import clip_keys
from cliptune.models.wise_ft import mix_models
from cliptune.training.loop import train
from cliptune.training.optimization.freezing import block_counts
from cliptune.training.options import TrainingOptions
from cliptune.training.run_logger import Cancelled, RunLogger
from cliptune.tuning.options import TuneOptions
from cliptune.tuning.report import TuneResult, write_report
from cliptune.tuning.search import Search, TrialResult
from cliptune.tuning.soup import State, greedy_soup
from cliptune.tuning.space import make_axes
from cliptune.tuning.trial import PREFIX, StopAfter, TrialLogger, checkpoint_of, measure

_ALPHAS = tuple(round(0.1 * step, 1) for step in range(11))
_FEW_QUERIES = 100


@dataclass(frozen=True)
class Parts:
    """What is trained on, chosen by, and measured with."""

    train: DocList[ClipDoc]
    validation: DocList[ClipDoc]
    test: DocList[ClipDoc]


def tune(
    base: TrainingOptions,
    asked: TuneOptions,
    named: Sequence[str],
    docs: DocList[ClipDoc],
    robust: DocList[ClipDoc] | None,
    run_dir: Path,
    logger: RunLogger,
    csv_options: Mapping[str, object] | None = None,
    pixel_cache: Path | None = None,
) -> str:
    """Search for the options to fine-tune `base.model` on `docs`; write `run_dir/artifact`.

    `run_dir/tune` holds the study, `report.html`, `trials.png` and `tune.json`. Called again after
    an interruption, it goes on where it was.

    Args:
        base: the options that all trials share.
        asked: how to search.
        named: the fields of `base` that the user gave: they are not varied.
        docs: pairs of a text and a picture.
        robust: pairs of another kind, on which the model should stay good (see `Rule`).
        run_dir: the run's folder.
        logger: told what goes on.
        csv_options: how the tables were read; the artifact keeps them.
        pixel_cache: a folder for decoded pictures; without one they are kept in memory.

    Returns:
        What went wrong without an error; empty if nothing did.

    Raises:
        BadData: too little data to divide, or too much that is unreadable.
        Cancelled: the logger asked to stop.
        CliptuneError: as `train`, of the trial at the defaults.
    """
    return _Tuning(base, asked, named, run_dir, logger, csv_options, pixel_cache).run(docs, robust)


class _Tuning:
    def __init__(
        self,
        base: TrainingOptions,
        asked: TuneOptions,
        named: Sequence[str],
        run_dir: Path,
        logger: RunLogger,
        csv_options: Mapping[str, object] | None,
        pixel_cache: Path | None,
    ) -> None:
        self.base, self.asked, self.named = base, asked, named
        self.run_dir, self.folder, self.logger = run_dir, run_dir / "tune", logger
        self.csv_options, self.pixel_cache = csv_options or {}, pixel_cache

    def run(self, docs: DocList[ClipDoc], robust: DocList[ClipDoc] | None) -> str:
        before = self._load(self.base.model)
        parts = self._divide(docs)
        validation = self._task(before, parts.validation, "validation ")
        axes = make_axes(self.base, self.named, len(parts.train))
        search = Search(
            self.base, self.asked, axes, block_counts(before.clip), self.folder, self.logger
        )
        self._say_what_was_understood(parts, validation, search)
        value = measure(before, validation, self.asked.limit).metrics[self.asked.metric]
        search.run(parts.train, validation, value, self.pixel_cache)
        self._look()
        best = search.best()
        members, chosen, value = self._soup(search, best, validation)
        self._look()
        alpha, mixed = self._mix(before, chosen, parts, robust)
        if self.asked.refit:
            mixed = self._refit(search, best[0], parts, before, alpha)
        self._look()
        result = self._measure_once(
            search, before, mixed, parts, members=members, soup=value, alpha=alpha
        )
        return self._finish(search, result, mixed)

    def _load(self, name: str) -> ClipModel:
        return load_model(
            name,
            device=str(pick_device(self.base.device)),
            context_length=self.base.context_length,
            tell=lambda words: None,  # each trial says so
        )

    def _task(self, model: ClipModel, docs: DocList[ClipDoc], role: str) -> SearchTask:
        return SearchTask.prepare(
            *both_towers(model),
            docs,
            docs,
            role=role,
            pixel_cache=self.pixel_cache,
            workers=self.base.num_workers,
            tell=self.logger.progress,
            warn=lambda words: self.logger.log("WARNING", words),
        )

    def _divide(self, docs: DocList[ClipDoc]) -> Parts:
        # By CLIP's tokens whatever the model reads: searches with several models are comparable.
        table = KeyedDocs.of(docs, clip_keys())
        shares = (self.asked.validation, self.asked.test)
        rows = divide(table, shares, self.base.seed)
        # A pair of grade 0 teaches what is wrong; nobody searches by it.
        rows[1:] = [[row for row in part if docs[row].grade != 0] for part in rows[1:]]
        for role, part in zip(("train on", "choose by", "measure with"), rows, strict=True):
            if len(part) < 2:
                raise BadData(
                    f"of {len(docs)} documents {len(part)} would be left to {role}: there are too "
                    "few of different titles, labels or pictures for a search by trials"
                )
        return Parts(*(DocList[ClipDoc]([docs[row] for row in part]) for part in rows))

    def _say_what_was_understood(
        self, parts: Parts, validation: SearchTask, search: Search
    ) -> None:
        asked, queries = self.asked, len(validation.answers.queries)
        lines = [
            f"{len(parts.train):,} pairs to train on, {len(parts.validation):,} to choose by, "
            f"{len(parts.test):,} that no choice sees; what has a title, label or picture in "
            "common is not divided",
            f"trials for {asked.minutes:g} minutes, and then the soup, alpha and the test"
            + (", and one more training on the validation part too" if asked.refit else ""),
            f"chosen by {asked.metric} (k = {asked.limit}), the best epoch of each trial",
            *(f"varied: {axis.describe()}" for axis in search.axes),
        ]
        if settled := [name for name in self.named if name != "model"]:
            lines.append(f"as given, and not varied: {', '.join(settled)}")
        if not search.axes:
            lines.append("all that trials vary was given: one trial is made")
        if search.results():
            lines = [f"going on after {len(search.results())} trials"]
        for line in lines:
            self.logger.log("INFO", line)
        if queries < _FEW_QUERIES:
            self.logger.log(
                "WARNING",
                f"choices are made by {queries} queries: small differences between trials are "
                "chance, which the test part will show",
            )

    def _look(self) -> None:
        if self.logger.cancelled():
            raise Cancelled

    def _soup(
        self, search: Search, best: Sequence[TrialResult], task: SearchTask
    ) -> tuple[list[int], ClipModel, float]:
        """The trials whose average is best on the validation part, and that average."""
        models = {one.number: search.artifact(one.number) for one in best}
        first = self._load(str(models[best[0].number]))
        shell = replace(first, clip=copy.deepcopy(first.clip), _digest=None)

        def value(state: State) -> float:
            self._look()
            shell.clip.load_state_dict(state)
            return measure(shell, task, self.asked.limit).metrics[self.asked.metric]

        def state_of(number: int) -> State:
            model = first if number == best[0].number else self._load(str(models[number]))
            state: State = model.clip.state_dict()
            return state

        candidates = [partial(state_of, number) for number in models]
        positions, soup, figure = greedy_soup(candidates, value)
        shell.clip.load_state_dict(soup)
        members = [best[position].number for position in positions]
        names = ", ".join(str(number + 1) for number in members)
        self.logger.log(
            "INFO",
            f"soup: of the {len(best)} best trials {names} "
            + (f"are averaged ({figure:.4f})" if len(members) > 1 else "alone is best"),
        )
        return members, replace(shell, _digest=None), figure

    def _mix(
        self,
        before: ClipModel,
        chosen: ClipModel,
        parts: Parts,
        robust: DocList[ClipDoc] | None,
    ) -> tuple[float, ClipModel]:
        """WiSE-FT's alpha by its rule, and the mixture."""
        points = sweep(
            before,
            chosen,
            _ALPHAS,
            (parts.validation, parts.validation),
            None if robust is None else (robust, robust),
            limit=self.asked.limit,
            pixel_cache=self.pixel_cache,
            on_progress=self.logger.progress,
        )
        pick = Rule(self.asked.metric, self.asked.max_loss).pick(points)
        self.logger.log("INFO", f"WiSE-FT: alpha {pick.alpha:g}, {pick.reason}")
        return pick.alpha, mix_models(before, chosen, pick.alpha)

    def _refit(
        self, search: Search, best: TrialResult, parts: Parts, before: ClipModel, alpha: float
    ) -> ClipModel:
        """Train with the best trial's options on the validation part too, as many epochs."""
        folder, options = self.folder / "refit", search.options(best)
        folder.mkdir(exist_ok=True)
        stop = StopAfter(epochs=best.epoch or options.epochs)
        outcome = train(
            options,
            DocList[ClipDoc]([*parts.train, *parts.validation]),
            None,
            [stop],
            folder,
            TrialLogger(self.logger, "Refit"),
            checkpoint_of(folder),
            pixel_cache=self.pixel_cache,
        )
        return mix_models(before, self._load(str(outcome.artifact.path)), alpha)

    def _measure_once(
        self,
        search: Search,
        before: ClipModel,
        chosen: ClipModel,
        parts: Parts,
        *,
        members: list[int],
        soup: float,
        alpha: float,
    ) -> TuneResult:
        """Search the test part by the three models."""
        task = self._task(before, parts.test, "test ")
        models = before, self._load(str(search.artifact(0))), chosen
        first, default, last = (measure(model, task, self.asked.limit) for model in models)
        return TuneResult(
            results=search.results(),
            axes=search.axes,
            metric=self.asked.metric,
            limit=self.asked.limit,
            members=members,
            soup=soup,
            alpha=alpha,
            refitted=self.asked.refit,
            over_before=compare_means(first.by_query, last.by_query),
            over_defaults=compare_means(default.by_query, last.by_query),
            importance=search.importance(),
            sizes={role: len(part) for role, part in vars(parts).items()},
            counts=last.counts(),
            minutes=sum(one.seconds for one in search.results()) / 60,
        )

    def _finish(self, search: Search, result: TuneResult, chosen: ClipModel) -> str:
        """Write the report and the artifact, and tell the figures."""
        best = search.best()[0]
        options = search.options(best)
        record = result.to_json()
        write_text(self.folder / "tune.json", json.dumps(record, indent=2))
        write_report(result, self.run_dir.name, self.folder)
        metrics: RunMetrics = {
            "before": _means(result.over_before, "before"),
            "after": _means(result.over_before, "after"),
            "epochs": search.history(best.number),
            "evaluations": {PREFIX[:-1]: result.counts},
        }
        write_artifact(
            chosen,
            self.run_dir / "artifact",
            config={
                **options.model_dump(mode="json"),
                "csv_options": dict(self.csv_options),
                "tune": {
                    **self.asked.model_dump(mode="json"),
                    "members": result.members,
                    "alpha": result.alpha,
                },
            },
            metrics=metrics,
            to_onnx=self.base.to_onnx,
            replace=True,
        )
        shutil.rmtree(self.folder / "refit", ignore_errors=True)  # the artifact is made of it
        self.logger.metrics(metrics)
        for line in result.summary():
            self.logger.log("INFO", line)
        worse = result.warning()
        self.logger.log("WARNING" if worse else "INFO", worse or "Done ✨")
        return worse


def _means(changes: Mapping[str, Change], side: str) -> dict[str, float]:
    return {PREFIX + name: float(getattr(change, side).mean) for name, change in changes.items()}
