"""The real benchmarks' figures of a row: its model on a data root, through the commands' own evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vidllm.evaluation.harness import Plan, evaluate
from vidllm.scene import load


@dataclass(frozen=True)
class Figure:
    """Where a number stands: task, protocol and the way to it in the scores; its heading and the paper's columns."""

    task: str
    protocol: str
    way: tuple[str, ...]
    heading: str
    columns: tuple[str, ...]


_BEST = ("deduplicated_known_only", "scores", "overall", "overall")
FIGURES: dict[str, Figure] = {
    "scanqa_cider": Figure("scanqa", "official", ("CIDEr",), "ScanQA CIDEr", ("ScanQA CIDEr",)),
    "scanqa_em": Figure("scanqa", "official", ("EM@1",), "ScanQA EM", ("ScanQA EM",)),
    "sqa3d_em": Figure("sqa3d", "leo", ("em_overall",), "SQA3D EM", ()),
    "scan2cap_cider": Figure("scan2cap", "cvpr21", ("@0.5IoU", "CIDEr"), "Scan2Cap C@0.5", ("Scan2Cap",)),
    "scanrefer_acc": Figure("scanrefer", "official", (*_BEST, "acc@0.25iou"), "ScanRefer Acc@0.25",
                            ("ScanRefer Acc@0.25", "ScanRefer")),
}  # fmt: skip


def measure_benchmarks(model: Path, root: Path, split: str, out: Path, frames: int | None = None) -> dict[str, float]:
    """Every figure of a model on the data under ``root``, from video alone; predictions are kept below ``out``.

    ValueError where the root lacks a benchmark or its scenes.
    """
    loaded, found = load(model), {}
    for name, figure in FIGURES.items():
        plan = Plan(figure.task, root, out, (figure.protocol,), split, frames=frames, settings=("raw",), baselines=())
        results = evaluate(plan, loaded, model)
        assert results is not None  # one process
        score = results["protocols"][figure.protocol]["scores"]["vidllm.raw"]
        for part in figure.way:
            score = score[part]
        found[name] = float(score)
    return found
