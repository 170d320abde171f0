"""From results to tables: mean and spread over the seeds, differences between rows beside the paper's, curves.

Rows are compared seed by seed (the same start, the same batches), so the spread of a difference is the deviation of
these differences, not that of the rows. A direction is a sign; it is called clear where the mean difference is larger
than its spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.evaluation.results import aligned
from vidllm.experiments.measuring import FIGURES, PLAN, Record, read_json
from vidllm.experiments.rows import Row, Table
from vidllm.export.line_chart import can_plot, line_charts
from vidllm.io.atomic import atomic_path
from vidllm.training.plot import LOG_FILE, RunLog, panels, read_log

#: our figure -> (heading, +1 where more is better, -1 where less is)
MEASURES: dict[str, tuple[str, int]] = {
    **{name: (figure.heading, 1) for name, figure in FIGURES.items()},
    "qa": ("QA EM", 1),
    "acc_25": ("Acc@0.25", 1),
    "iou": ("box IoU", 1),
    "none_right": ("no such object", 1),
    "abs_rel": ("abs-rel", -1),
    "abs_rel_aligned": ("abs-rel aligned", -1),
    "scale_error": ("scale error", -1),
    "rotation_deg": ("rotation deg", -1),
    "translation_m": ("translation m", -1),
}
CURVES = ("text", "token_acc", "box_diou", "box_nce", "camera", "depth", "metric", "rotation_deg")


@dataclass(frozen=True)
class Cell:
    """Mean and standard deviation (nan for one seed) over ``count`` seeds."""

    mean: float
    spread: float
    count: int

    def __str__(self) -> str:
        spread = "" if math.isnan(self.spread) else f" ± {self.spread:.3f}"
        return f"{self.mean:.3f}{spread}" if self.count else "-"


@dataclass(frozen=True)
class Step:
    """A row beside the one it is compared with, in one figure.

    ``gain`` is positive where the row is better; ``paper`` is the paper's own gain, None where it gives none;
    ``agrees`` whether the two have one sign.
    """

    row: str
    against: str
    figure: str
    gain: Cell
    column: str | None
    paper: float | None
    agrees: bool | None
    clear: bool | None


def cell(values: Sequence[float | None]) -> Cell:
    """Of one figure over the seeds; what is missing is left out."""
    numbers = [float(v) for v in values if v is not None and math.isfinite(v)]
    if not numbers:
        return Cell(math.nan, math.nan, 0)
    return Cell(float(np.mean(numbers)), float(np.std(numbers, ddof=1)) if len(numbers) > 1 else math.nan, len(numbers))


def measured(results: Sequence[Sequence[Record]]) -> list[str]:
    """The figures of :data:`MEASURES` that any row has."""
    return [name for name in MEASURES if any(name in one["values"] for row in results for one in row)]


def steps_of(table: Table, results: Sequence[Sequence[Record]]) -> list[Step]:
    """Every row beside those that it is compared with, in every figure that both have.

    A column of the paper stands beside the benchmark's own figure where that is measured, else beside ours like it.
    """
    steps, figures = [], measured(results)
    columns = table.columns | {c: name for name in figures if name in FIGURES for c in FIGURES[name].columns}
    for number, against in ((n, a) for n, row in enumerate(table.rows) for a in row.against):
        for figure in figures:
            pairs = zip(results[number], results[against], strict=True)
            both = [(a["values"].get(figure), b["values"].get(figure)) for a, b in pairs]
            gain = cell([MEASURES[figure][1] * (a - b) for a, b in both if a is not None and b is not None])
            if gain.count:
                like = [column for column, name in columns.items() if name == figure]
                steps.append(_step(table.rows[number], table.rows[against], figure, gain, like))
    return steps


def _step(row: Row, other: Row, figure: str, gain: Cell, columns: Sequence[str]) -> Step:
    column = next((c for c in columns if c in row.paper and c in other.paper), None)
    paper = None if column is None else round(row.paper[column] - other.paper[column], 4)
    agrees = None if paper is None else (gain.mean > 0) == (paper > 0)
    clear = None if math.isnan(gain.spread) else abs(gain.mean) > gain.spread
    return Step(row.name, other.name, figure, gain, column, paper, agrees, clear)


def statement(step: Step) -> str:
    """A plain sentence about one step."""
    direction = "better" if step.gain.mean > 0 else "worse" if step.gain.mean < 0 else "the same"
    sign = "" if str(step.gain).startswith("-") else "+"
    spread = {True: "clear of the spread", False: "within the spread", None: "one seed, no spread"}[step.clear]
    paper = "the paper gives no number"
    if step.paper is not None:
        outcome = "agrees" if step.agrees else "disagrees" if step.gain.mean else "no difference here"
        paper = f"paper {step.column} {step.paper:+g}: {outcome}"
    title = MEASURES[step.figure][0]
    return f"{step.row} over {step.against}, {title}: {direction} by {sign}{step.gain} ({spread}); {paper}"


def verdict(steps: Sequence[Step]) -> str:
    """How many of the paper's directions are ours, and how many of those are clear."""
    compared = [step for step in steps if step.agrees is not None]
    if not compared:
        return "The paper gives no numbers to compare these rows with."
    agree = [step for step in compared if step.agrees]
    clear = [step for step in agree if step.clear]
    against = [step for step in compared if not step.agrees and step.gain.mean]
    beyond = [step for step in against if step.clear]
    return (
        f"Of {len(compared)} directions that the paper gives, {len(agree)} agree ({len(clear)} of them clear of the "
        f"spread), {len(against)} disagree ({len(beyond)} of them clear of the spread) and "
        f"{len(compared) - len(agree) - len(against)} show no difference."
    )


def grid(table: Table, results: Sequence[Sequence[Record]]) -> list[list[str]]:
    """The table as cells: a heading, one line a row, and the baselines that need no training."""
    names = measured(results)
    lines = [["row", *(MEASURES[name][0] for name in names)]]
    for row, one in zip(table.rows, results, strict=True):
        lines.append([row.name, *(str(cell([r["values"].get(name) for r in one])) for name in names)])
    blind = results[0][0]["baselines"]
    lines.append(["trivial baselines", *(f"{blind[n]:.3f}" if blind.get(n) is not None else "-" for n in names)])
    return lines


def report(table: Table, results: Sequence[Sequence[Record]], command: str, *, markdown: bool = False) -> list[str]:
    """Everything that is told of a table, as lines."""

    def form(lines: Sequence[Sequence[str]]) -> list[str]:
        rows = ["| " + " | ".join(line) + " |" for line in lines]
        return [rows[0], "|---" * len(lines[0]) + "|", *rows[1:]] if markdown else aligned(lines)

    columns = list(dict.fromkeys(column for row in table.rows for column in row.paper))
    paper = [[row.name, *(f"{row.paper[c]:g}" if c in row.paper else "-" for c in columns)] for row in table.rows]
    steps, first = steps_of(table, results), results[0][0]["evaluation"]
    rooms, count = first["rooms"], len(results[0])
    head = f"{table.title}: rooms {rooms[0]} to {rooms[1] - 1}, mean ± standard deviation over n = {count} seeds"
    bullet, text = "- " if markdown else "  ", [f"# {head}", f"\n`{command}`\n"] if markdown else [head]
    text += [*form(grid(table, results)), ""]
    if columns:
        text += [*form([["paper", *columns], *paper]), "", f"Source of the paper's numbers: {table.source}.", ""]
    text.append(verdict(steps))
    for compared in (True, False):
        text += [""] * markdown + [bullet + statement(s) for s in steps if (s.paper is not None) == compared]
    return text


def as_record(table: Table, results: Sequence[Sequence[Record]], command: str) -> Record:
    """The same as one value for JSON, with every result of every seed."""
    rows: list[dict[str, Any]] = []
    for row, one in zip(table.rows, results, strict=True):
        names = dict.fromkeys(name for result in one for name in result["values"])
        figures = {name: asdict(cell([result["values"].get(name) for result in one])) for name in names}
        rows.append({"row": row.name, "figures": figures, "paper": row.paper, "results": list(one)})
    steps = [{**asdict(step), "statement": statement(step)} for step in steps_of(table, results)]
    return {"table": table.name, "command": command, "source": table.source, "rows": rows, "steps": steps,
            "verdict": verdict(steps_of(table, results))}  # fmt: skip


def draw_curves(table: Table, runs: Sequence[Sequence[Path]], path: Path) -> bool:
    """Convergence of the joint training, a curve a row, the mean over its seeds.

    False where there is nothing to draw, or no matplotlib.
    ``runs`` holds the folders (one a seed) of each row. Steps of stage 1 count: its row begins later.
    """
    logs = [mean_log(row.name, folders) for row, folders in zip(table.rows, runs, strict=True)]
    kept = [RunLog(log.name, {n: log.curves[n] for n in CURVES if n in log.curves}) for log in logs]
    drawn = panels(kept)
    if not drawn or not can_plot():
        return False
    with atomic_path(path) as part:
        line_charts(drawn, [log.name for log in kept], "optimiser step, both stages").savefig(part, format="png")
    return True


def mean_log(name: str, folders: Sequence[Path]) -> RunLog:
    """The curves of one row's joint runs, averaged over the seeds at the steps that all of them logged."""
    logs = [read_log(folder / "joint").curves for folder in folders if (folder / "joint" / LOG_FILE).exists()]
    plans = [plan for folder in folders if (plan := read_json(folder / PLAN)) is not None]
    shift = max((plan["stage1"]["steps"] for plan in plans if plan["stage1"]), default=0)
    curves = {}
    for quantity in dict.fromkeys(q for log in logs for q in log):
        curve_of_seed = [dict(zip(*log[quantity], strict=True)) for log in logs if quantity in log]
        steps = sorted(set.intersection(*(set(one) for one in curve_of_seed)))
        if steps:
            mean = np.array([np.mean([one[step] for one in curve_of_seed]) for step in steps])
            curves[quantity] = np.array(steps) + shift, mean
    return RunLog(name, curves)
