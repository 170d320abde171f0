"""Write a submission to the EASI leaderboard from files of predictions: ``easi_results.json`` and ``easi_results.zip``.

    python submission.py --model ORG/NAME --type finetuned --precision float32 -o OUT \
        --benchmark vsi PREDICTIONS test.jsonl --benchmark mmsi PREDICTIONS mmsi.parquet

The scores are those of lmms-eval 0.7.3 (``vidllm eval --protocol lmms-eval-0.7.3``), in percent. The archive holds, for
each benchmark, the scores with their checksums, and every question with what was said and how it was graded. The form
is that of EASI's ``scripts/submissions/postprocess.py``; nothing is sent anywhere.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidllm.evaluation.protocols import protocol
from vidllm.evaluation.protocols.graded import by_key, prediction_of
from vidllm.evaluation.scoring import PredictionFiles
from vidllm.io.atomic import atomic_path, write_json

PROTOCOL = "lmms-eval-0.7.3"
#: EASI's name and the headline of a benchmark; SPAR-Bench's is in percent already.
BENCHMARKS = {
    "vsi": ("vsi_bench", "vsibench_overall"), "mmsi": ("mmsi_bench", "average"),
    "3dsr": ("3dsrbench", "vanilla_accuracy"), "spar": ("spar_bench", "sparbench_score"),
}  # fmt: skip
_WITHOUT_PARTS = ("spar",)
_MMSI = {"Positional Relationship": "pos", "Attribute": "attr", "Motion": "motion", "MSR": "msr"}


def part_name(task: str, metric: str) -> str | None:
    """EASI's name of a score of a part of a benchmark, None for what it does not ask for."""
    if task == "vsi":
        return metric.removesuffix("_mra")
    if task == "3dsr":
        short = metric.removesuffix("_accuracy")
        return None if short in ("height", "location", "orientation", "multi_object") or "flip" in metric else short
    kind, _, about = metric.partition(" (")
    words = about.lower().replace("\N{EN DASH}", "").replace(")", "").split(".")
    return "_".join([_MMSI.get(kind, kind.lower()), *(word for word in words if word), "accuracy"])


def parts_of(task: str, scores: dict[str, Any], headline: str) -> dict[str, float]:
    """The scores of the parts in percent, by EASI's names."""
    if task in _WITHOUT_PARTS:
        return {}
    named = {part_name(task, metric): value for metric, value in scores.items() if metric != headline}
    return {name: round(100 * value, 4) for name, value in named.items() if name and isinstance(value, float)}


def submission(given: Sequence[tuple[str, str, str]], about: dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The payload, and the files of the archive by name, from (task, predictions, references) and what the user says.

    Raises:
        ValueError: an unknown benchmark, or what ``vidllm eval`` refuses.
    """
    scores: dict[str, float] = {}
    parts: dict[str, dict[str, float]] = {}
    archive: dict[str, str] = {}
    for task, predictions, references in given:
        if task not in BENCHMARKS:
            raise ValueError(f"--benchmark: expected one of {', '.join(BENCHMARKS)}, received {task!r}")
        name, headline = BENCHMARKS[task]
        files, entry = PredictionFiles(predictions, references), protocol(task, PROTOCOL)
        result = files.result(task, entry)
        found = {name: result["scores"]}
        if "debiased" in result["scores"]:
            found["vsi_debiased"] = result["scores"].pop("debiased")
        for key, one in found.items():
            scores[key] = round(one[headline] * (1 if task == "spar" else 100), 4)
            parts |= {key: inner} if (inner := parts_of(task, one, headline)) else {}
        archive[f"{name}_results.json"] = json.dumps(result, indent=1)
        graded = files.scored(entry.per_item)
        said = by_key(files.predictions, "predictions")
        lines = [json.dumps({"id": key, "prediction": prediction_of(said[key]), **graded[key]}) for key in graded]
        archive[f"{name}_samples.jsonl"] = "\n".join(lines) + "\n"
    return {**about, "scores": scores, "subScores": parts}, archive


def main() -> None:
    """Write both files; nothing half-written is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", nargs=3, action="append", required=True, metavar=("TASK", "PREDICTIONS", "FILE"))
    parser.add_argument("--model", required=True, metavar="ORG/NAME")
    for name, told in (("type", "finetuned, pretrained, ..."), ("precision", "float32, bfloat16, ...")):
        parser.add_argument(f"--{name}", required=True, help=told)
    for name in ("revision", "weight-type", "base-model", "remarks"):
        parser.add_argument(f"--{name}", default="main" if name == "revision" else "")
    parser.add_argument("-o", "--output", required=True, metavar="OUT")
    given = parser.parse_args()
    if "/" not in given.model:
        parser.error(f"--model: EASI expects ORG/NAME, received {given.model!r}")
    about = {
        "modelName": given.model, "modelType": given.type, "precision": given.precision, "revision": given.revision,
        "weightType": given.weight_type, "baseModel": given.base_model, "backend": "lmmseval",
        "remarks": given.remarks or "scored by vidllm, which reproduces lmms-eval 0.7.3",
    }  # fmt: skip
    try:
        payload, archive = submission([tuple(one) for one in given.benchmark], about)
    except ValueError as error:
        parser.error(str(error))
    out = Path(given.output)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "easi_results.zip") as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in archive.items():
            file.writestr(f"{given.model.rpartition('/')[2]}/{name}", text)
    write_json(out / "easi_results.json", payload, indent=2)
    print(json.dumps(payload, indent=2))


if __name__ == "__main__":
    main()
