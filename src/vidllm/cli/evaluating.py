"""``vidllm eval``: run a model on a benchmark as it was downloaded, or score a file of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from vidllm.cli import reading
from vidllm.cli.options import (
    NO_HINT,
    ComputeOptions,
    Count,
    Effect,
    File,
    Flag,
    Frames,
    MaybeOutput,
    Place,
    Text,
    Verb,
    Words,
    one_of,
)
from vidllm.evaluation.protocols import ALL, OFFICIAL, Protocol, chosen_protocols, protocols
from vidllm.evaluation.results import flat, headline_first
from vidllm.evaluation.scoring import PredictionFiles
from vidllm.io.atomic import atomic_path

TASKS = Literal[
    "scanqa", "sqa3d", "scan2cap", "scanrefer", "multi3drefer", "nr3d", "sr3d", "vsi", "revsi", "spar", "3dsr", "mmsi",
    "openeqa", "reconstruction",
]  # fmt: skip
_SCORED_ONLY = ("revsi", "spar", "3dsr", "mmsi", "openeqa")


@dataclass(frozen=True)
class FileOptions:
    """Score a file of predictions."""

    predictions: File = None  # a file to score, as submitted to the benchmark
    references: File = None  # the benchmark's annotations, as distributed
    per_item: File = None  # also write the scores of every item


@dataclass(frozen=True)
class RunOptions:
    """Run a model."""

    data: Place = None  # run the model on the data under this folder
    output: MaybeOutput = None  # predictions and results; interrupted runs resume
    split: str = "val"  # split of the annotations
    scenes: Words = ()  # only these scenes
    setting: Words = ()  # raw, proposals, oracle-geometry (default: all that the data allows), given-poses
    proposals: Annotated[Literal["mask3d", "gt"] | None, one_of("mask3d", "gt"), NO_HINT] = None
    """source of proposals (default: mask3d if present)"""
    baselines: Words = ()  # 2d, language-only, most-frequent, mean-box, none (default: all that the task has)
    blind: Place = None  # folder of the language-only baseline (default: the shipped one)
    frames: Frames = None  # frames to sample (default: the model's)


def _has_language_only(options: Any) -> bool:
    words = reading.words(options.baselines) or ("language-only",)
    return options.task in ("scanqa", "sqa3d", "scan2cap", "vsi") and "language-only" in words


@dataclass(frozen=True)
class Evaluate(Verb):
    """Run a model on a benchmark, or score a file of predictions, with a named protocol."""

    EFFECTS = (
        Effect(("output", "split", "scenes", "setting", "proposals", "baselines", "blind", "model", "vlm", "frames",
                "refine", "no_refine", "device", "dtype"),
               "not used for scoring files; they need --data ROOT, which runs a model", lambda o: bool(o.data)),
        Effect(("predictions", "references", "per_item"),
               "--data runs a model, these options score files: give one of the two", lambda o: not o.data),
        Effect(("proposals", "baselines", "blind", "protocol"),
               "reconstruction has one baseline and one protocol", lambda o: o.task != "reconstruction"),
        Effect(("vlm",), "reconstruction has no questions", lambda o: o.task != "reconstruction"),
        Effect(("proposals",), "answers in words need no boxes", lambda o: o.task not in ("scanqa", "sqa3d", "vsi")),
        Effect(("blind",), "it needs the baseline language-only of scanqa, sqa3d, scan2cap or vsi", _has_language_only),
    )  # fmt: skip

    task: Annotated[Positional[TASKS], arg(metavar="TASK")]
    """scanqa, sqa3d, scan2cap, scanrefer, multi3drefer, nr3d, sr3d, vsi, reconstruction; only from files of
    predictions: revsi, spar, 3dsr, mmsi, openeqa (its predictions are the marks of a judge)"""
    protocol: str = OFFICIAL  # evaluation script to reproduce, or all
    json: Flag = False  # JSON on standard output
    files: FileOptions = field(default_factory=FileOptions)
    running: RunOptions = field(default_factory=RunOptions)
    compute: ComputeOptions = field(default_factory=ComputeOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.running.data:
            if self.task in _SCORED_ONLY:
                raise ValueError(f"{self.task} is only scored from files: give --predictions FILE and "
                                 "--references FILE")  # fmt: skip
            if not self.running.output:
                raise ValueError("give -o OUT, a folder for the predictions, from which an interrupted run resumes")
        elif self.task == "reconstruction":
            raise ValueError("reconstruction is evaluated on scans: give --data ROOT")
        elif not (self.files.predictions and self.files.references):
            raise ValueError("give --predictions FILE and --references FILE, or --data ROOT to run a model")

    def run(self) -> None:
        if self.running.data:
            self._run_model(Path(self.running.data))
        else:
            self._score_files()

    def _score_files(self) -> None:
        assert self.files.predictions is not None and self.files.references is not None
        chosen = chosen_protocols(self.task, self.protocol)
        out = reading.writable(self.files.per_item) if self.files.per_item else None
        if out is not None:
            _check_items("--per-item", self.task, chosen)
        given = PredictionFiles(self.files.predictions, self.files.references)
        results = [given.result(self.task, entry) for entry in chosen]
        _warn_of_missing_meteor(self.task, [entry.name for entry in chosen])
        if out is not None:
            items = given.scored(chosen[0].per_item)
            with atomic_path(out) as temporary:
                temporary.write_text(reading.json_text(items) + "\n", encoding="utf-8")
        if self.json:
            print(reading.json_text(results[0] if self.protocol != ALL else results))
            return
        for name, path in (("predictions", self.files.predictions), ("references", self.files.references)):
            print(f"{name}: {path} (sha256 {given.checksums[name]['sha256'][:12]})")
        for entry, result in zip(chosen, results, strict=True):
            _print_table(self.task, entry, result["scores"])

    def _run_model(self, data: Path) -> None:
        """Predict, gather and score; only the first of several processes prints."""
        assert self.running.output is not None
        is_reconstruction = self.task == "reconstruction"
        names = () if is_reconstruction else tuple(p.name for p in chosen_protocols(self.task, self.protocol))
        if not (Path(self.running.output) / "results.json").exists():
            _warn_of_missing_meteor(self.task, names)
        out = reading.writable_folder(self.running.output)
        from vidllm.training.distributed import check_processes

        check_processes()
        from vidllm.evaluation.harness import Plan, evaluate, own_device
        from vidllm.evaluation.reconstruction import evaluate_reconstruction
        from vidllm.evaluation.results import lines_of
        from vidllm.io.weight_files import model_of_run

        model, given = self.compute.load(own_device(self.compute.device)), self.running
        baselines = reading.words(given.baselines) or None
        blind = {"blind": model_of_run(given.blind)} if given.blind else {}
        plan = Plan(
            self.task, data, out, names, given.split, reading.words(given.scenes), given.frames,
            reading.words(given.setting) or None, given.proposals, () if baselines == ("none",) else baselines, **blind,
        )  # fmt: skip
        run = evaluate_reconstruction if is_reconstruction else evaluate
        results = run(plan, model, self.compute.model, reading.Progress("scenes"))
        if results is None:
            return
        reading.show(self.json, results, lines_of(results))


def _warn_of_missing_meteor(task: str, names: Sequence[str]) -> None:
    """A line on standard error where a protocol reports METEOR and this machine cannot compute it."""
    from vidllm.evaluation.text_metrics.captions import meteor_missing

    reports = task in ("scanqa", "scan2cap") or (task == "sqa3d" and bool({"leo", "chatscene"} & set(names)))
    if reports and (missing := meteor_missing()) is not None:
        reading.note(f"vidllm: warning: {missing}")


def _check_items(option: str, task: str, chosen: Sequence[Protocol]) -> None:
    """Refuse several protocols, and one without values per item."""
    if len(chosen) > 1 or chosen[0].items is None:
        names = [name for name, entry in protocols(task).items() if entry.items is not None]
        raise ValueError(f"{option}: give one protocol that has values per item; "
                         f"{task} has them for {', '.join(names) or 'none'}")  # fmt: skip


def _print_table(task: str, entry: Protocol, scores: dict[str, Any]) -> None:
    print(f"\n{task}, protocol {entry.name}\n  follows {entry.source}\n  scale: {entry.scale}")
    rows = flat(scores, with_text=True)
    width = max(map(len, rows), default=0)
    for name in headline_first({name: [value] for name, value in rows.items()}):
        print(f"  {name:<{width}}  {f'{rows[name]:.6g}' if isinstance(rows[name], float) else rows[name]}")


@dataclass(frozen=True)
class Compare(Verb):
    """Compare two files of predictions: the difference of a score and its 95% interval (paired bootstrap)."""

    first: Annotated[Positional[str], arg(metavar="A")]
    """a file of predictions"""
    second: Annotated[Positional[str], arg(metavar="B")]
    """another file of predictions for the same items"""
    task: Annotated[TASKS, arg(metavar="TASK")]
    """a task of vidllm eval"""
    references: Annotated[str, arg(metavar="FILE")]
    """the benchmark's annotations, as distributed"""
    protocol: str = OFFICIAL  # evaluation script to reproduce
    metric: Text = None  # the metric to compare (default: the first of the protocol)
    resamples: Count = 2000  # number of bootstrap resamples
    seed: int = 0  # seed of the bootstrap
    json: Flag = False  # JSON on standard output

    def run(self) -> None:
        from vidllm.evaluation.comparing import COVERAGE, compare

        chosen = chosen_protocols(self.task, self.protocol)
        _check_items("--protocol", self.task, chosen)
        entry = chosen[0]
        files = [PredictionFiles(path, self.references) for path in (self.first, self.second)]
        one, other = (given.scored(entry.per_item) for given in files)
        found = compare(one, other, self.metric, self.resamples, self.seed)
        told = {"task": self.task, "protocol": entry.name, **asdict(found), "difference": found.difference}
        told |= {"is_noise": found.is_noise, "references": files[0].checksums["references"]}
        told |= {name: given.checksums["predictions"] for name, given in zip("AB", files, strict=True)}
        said = "within the noise" if found.is_noise else "more than noise"
        reading.show(self.json, told, [
            f"{self.task}, protocol {entry.name}: {found.metric} of {found.items} items",
            f"A {found.first:.4f}  {self.first}", f"B {found.second:.4f}  {self.second}",
            f"A - B {found.difference:+.4f}, {COVERAGE}% interval {found.low:+.4f} to {found.high:+.4f}: {said} "
            f"({found.resamples} resamples, seed {found.seed})",
        ])  # fmt: skip
