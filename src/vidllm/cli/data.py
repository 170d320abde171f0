"""The commands of ``vidllm data``, for downloaded data and your own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from vidllm.cli import reading
from vidllm.cli.options import ComputeOptions, Count, Flag, Frames, Output, Place, Verb, Words

if TYPE_CHECKING:
    from vidllm.datasets.jsonl import JsonlReport


@dataclass(frozen=True)
class Check(Verb):
    """List present, missing and damaged files of ScanNet datasets or of your own data."""

    root: Annotated[Positional[str], arg(metavar="ROOT")]
    """folder with scans/ and the annotation files, or your own FILE.jsonl"""
    quick: Flag = False  # only check that scenes and videos exist, without reading them
    strict: Flag = False  # exit code 2 also if a count differs from the official one or if there are notes
    json: Flag = False  # JSON on standard output

    def run(self) -> None:
        if self.root.endswith(".jsonl"):
            self._check_own()
            return
        from vidllm.datasets.check import check_root
        from vidllm.evaluation.tasks import refusals

        report = check_root(self.root, quick=self.quick, progress=reading.Progress("scenes"), further=refusals)
        reading.show(self.json, report.to_json(), report.lines())
        if report.broken:
            raise ValueError(f"{self.root}: damaged files: {len(report.broken)}, named above; download them again")
        if not report.usable:
            raise ValueError(f"{self.root}: no data of ScanNet or its language sets found; see above for the sources")
        if self.strict and report.differs:
            names = ", ".join(row.what for row in report.differs)
            raise ValueError(f"{self.root}: counts differ from the official ones: {names}")

    def _check_own(self) -> None:
        from vidllm.datasets.jsonl import check_jsonl

        report = check_jsonl(self.root, quick=self.quick, progress=reading.Progress("videos"))
        if not self.quick:
            _note_lengths(report)
        reading.show(self.json, report.to_json(), report.lines())
        if report.problems:
            raise ValueError(f"{self.root}: problems: {len(report.problems)}, named above by line; correct them")
        if self.strict and report.notes:
            raise ValueError(f"{self.root}: notes: {len(report.notes)}, named above by line")


def _note_lengths(report: JsonlReport) -> None:
    """Add notes on texts over the default length of fine-tuning, counted in the shipped model's tokens."""
    from transformers import AutoTokenizer

    from vidllm.datasets.jsonl import Remark
    from vidllm.model.configuration import TINY
    from vidllm.training.finetune import FinetuneConfig
    from vidllm.training.texts import TextMaker, too_long

    wrong = {remark.line for remark in report.problems}
    sound = [example for example in report.examples if example.line not in wrong]
    maker = TextMaker(AutoTokenizer.from_pretrained(TINY))
    for line, text in too_long(sound, maker, FinetuneConfig.max_text_tokens):
        report.notes.append(Remark(line, f"{report.path}: {text}"))


@dataclass(frozen=True)
class Score(Verb):
    """Evaluate a model on your own data (format: docs/fine_tuning.md)."""

    file: Annotated[Positional[str], arg(metavar="FILE.jsonl")]  # questions, expressions and captions with answers
    json: Flag = False  # JSON on standard output
    frames: Frames = None  # frames to sample (default: the model's)
    compute: ComputeOptions = field(default_factory=ComputeOptions)

    def run(self) -> None:
        from vidllm.datasets.jsonl import read_jsonl
        from vidllm.evaluation.scene_metrics import score_examples

        examples = read_jsonl(self.file)
        model = self.compute.load()
        rows = score_examples(model, examples, self.frames, reading.Progress("videos"))
        lines = [f"{'measure':32s}{'of':>6s}{'model':>8s}{'most frequent answer':>22s}"]
        for row in rows:
            usual = "" if row.baseline is None else f"{row.baseline:22.3f}"
            lines.append(f"{row.measure:32s}{row.count:6d}{row.value:8.3f}{usual}")
        told = {"file": self.file, "model": self.compute.model, "rows": [asdict(row) for row in rows]}
        reading.show(self.json, told, lines)


@dataclass(frozen=True)
class Pack(Verb):
    """Write scenes and their texts as training shards; packed scenes are kept. Prints the required space first."""

    root: Annotated[Positional[str], arg(metavar="ROOT")]  # folder with scans/ and the annotation files
    output: Output  # folder of the shards
    frames: Count = 32  # frames per scene
    shorter_side: int = 518  # shorter side of the frames in pixels
    scenes: Words = ()  # only these scenes
    per_shard: int = 4  # scenes per shard
    split: str = "train"  # split of the texts; scenes without texts are left out
    dry_run: Flag = False  # print the required space, without writing anything

    def run(self) -> None:
        from vidllm.datasets.pack import PackSettings, pack, packing_bytes

        folder, settings = Path(self.output), PackSettings(self.frames, self.shorter_side, split=self.split)
        count, need = packing_bytes(self.root, folder, settings, scenes=reading.words(self.scenes) or None)
        reading.check_room(folder, need, f"{count} scenes of {self.frames} frames")
        if self.dry_run:
            return
        reading.writable_folder(self.output)
        held = pack(self.root, folder, settings, scenes=reading.words(self.scenes) or None, per_shard=self.per_shard,
                    progress=reading.Progress("scenes"))  # fmt: skip
        print(f"{folder}: {held} scenes")


@dataclass(frozen=True)
class LabelClips(Verb):
    """Label RGB-D or posed clips with a detector, for vidllm train --posed-clips; existing labels are kept."""

    clips: Annotated[Positional[str], arg(metavar="DIR")]  # a clip, or a folder of clips: docs/training.md
    detector: Annotated[str, arg(metavar="PLACE")]  # folder or hub id of a zero-shot detector: docs/detectors.md
    names: Words = ()  # look for these instead of the categories of the procedural rooms
    least: float = 0.4  # minimum score of a box
    device: str = "cpu"  # cpu, cuda or cuda:1

    def run(self) -> None:
        from vidllm.datasets.shards import rooms_labels
        from vidllm.detection.detectors import load_detector
        from vidllm.detection.labels import labels_file, read_labels, write_labels
        from vidllm.training.posed_clips import open_clips

        clips = open_clips(Path(self.clips), "data label")
        for clip in clips:
            read_labels(clip)  # report damaged label files before hours of detection
        detector, names = load_detector(self.detector, self.device), reading.words(self.names)
        for clip in clips:
            if labels_file(clip).exists():
                print(f"{labels_file(clip)}: kept")
                continue
            progress = reading.Progress(f"{clip.where}: pictures searched")
            file, boxes = write_labels(clip, detector, names or rooms_labels().categories, self.least, progress)
            print(f"{file}: {boxes} boxes in {len(clip)} frames")


@dataclass(frozen=True)
class SeenIn(Verb):
    """Check whether a model was trained on the scenes of a benchmark, by the record in the model's folder."""

    file: Annotated[Positional[str], arg(metavar="FILE")]
    """annotations of the benchmark (JSON, JSON lines, CSV, parquet), or a list of scenes"""
    model: Place = None  # folder of a model (default: the shipped model)
    json: Flag = False  # JSON on standard output

    def run(self) -> None:
        from vidllm.datasets.seen import SEEN_FILE, benchmark_scenes, read_seen
        from vidllm.io.weight_files import model_of_run
        from vidllm.model.configuration import TINY

        folder = model_of_run(self.model) if self.model else TINY
        if not folder.is_dir():
            raise ValueError(f"--model {folder}: not a folder; give the folder of a model")
        scenes, seen = benchmark_scenes(self.file), read_seen(folder)
        if seen is None:
            raise ValueError(f"{folder}: no {SEEN_FILE}, so its training data is unknown; ask whoever trained it")
        known = [scene for scene in scenes if seen.knows(scene)]
        doubts = {scene: why for scene in scenes if not seen.knows(scene) and (why := seen.doubt(scene))}
        told = {"model": str(folder), "scenes": len(scenes), "seen": known, "possibly": doubts}
        reading.show(self.json, told, [
            f"{self.file}: {len(scenes)} scenes; seen in training: {len(known)}, possibly: {len(doubts)}",
            *(f"{what}: {', '.join(found[:10])}{' ...' if len(found) > 10 else ''}"
              for what, found in (("seen", known), ("possibly seen", [*doubts])) if found),
            *(f"possibly, because {why}" for why in dict.fromkeys(doubts.values())),
        ])  # fmt: skip
