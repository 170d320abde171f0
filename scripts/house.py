"""The structure of the source, measured and held: lines, import circles, upward imports, arguments, file sizes.

    python scripts/house.py            # print the figures; exit code 1 where a bound is broken that KNOWN does not
                                       # name, or where an entry of KNOWN no longer occurs
    python scripts/house.py --walks    # also run one question and one training step and count the files they go through

Floors: a module imports only from its own floor or from a lower one. Imports inside functions count (a lazy upward
import is upward all the same); those under TYPE_CHECKING count for circles as well.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src"
MAX_FILE_LINES = 500
MAX_ARGUMENTS = 7
#: Lowest first. The last part of a name that is listed decides; "vidllm.x" covers vidllm.x.y.
FLOORS = (
    ("vidllm.english", "vidllm.geometry", "vidllm.io"),
    ("vidllm.model",),
    ("vidllm.baselines", "vidllm.pretrained"),
    ("vidllm.export", "vidllm.profiling", "vidllm.quantisation"),
    ("vidllm.answers", "vidllm.inventory", "vidllm.detection", "vidllm.scene_in_words"),
    ("vidllm.scene_file", "vidllm.reconstruction", "vidllm.long_video", "vidllm.scene",
     "vidllm.feature_registration"),
    ("vidllm.datasets",),
    ("vidllm.training",),
    ("vidllm.evaluation",),
    ("vidllm.experiments",),
    ("vidllm.serving",),
    ("vidllm.cli", "vidllm_rooms"),
)
#: Lines of a package, docstrings included: raise a figure only with a reason in the commit.
BUDGET: dict[str, int] = {
    "vidllm": 2430,
    "vidllm.baselines": 1925,
    "vidllm.cli": 2155,
    "vidllm.datasets": 2790,
    "vidllm.detection": 610,
    "vidllm.evaluation": 5630,
    "vidllm.experiments": 900,
    "vidllm.export": 1750,
    "vidllm.geometry": 2055,
    "vidllm.io": 5430,
    "vidllm.long_video": 1005,
    "vidllm.model": 5930,
    "vidllm.pretrained": 2160,
    "vidllm.serving": 1270,
    "vidllm.training": 6555,
    "vidllm_rooms": 1805,
    "vidllm_rooms.language": 1865,
    "vidllm_rooms.official": 880,
    "vidllm_rooms.world": 1555,
}
#: Signatures that transformers prescribes.
PRESCRIBED = {"forward", "generate", "prepare_inputs_for_generation", "__call__"}
#: Functions that may have up to that many arguments.
WIDE = {
    "vidllm.baselines.cascade:__init__": 8,  # one argument a field, as usual in transformers
    "vidllm.scene:reconstruct": 8,  # the public face: each is a decision of the user
    "vidllm.scene:stream": 8,  # as reconstruct
    "vidllm.training.packing:packed_attention": 8,  # transformers' attention interface, and two keywords
}
#: What breaks a bound today: circles of these modules (or of some of them), and the rest as the report prints it. Both
#: lists must only become shorter.
KNOWN_CIRCLES: tuple[frozenset[str], ...] = ()
KNOWN: frozenset[str] = frozenset()


@dataclass
class House:
    """What was measured: per file its lines, its imports with and without those for types, wide functions."""

    lines: dict[str, int] = field(default_factory=dict)
    every: dict[str, set[str]] = field(default_factory=dict)
    anywhere: dict[str, set[str]] = field(default_factory=dict)
    wide: list[str] = field(default_factory=list)

    def circles(self) -> list[list[str]]:
        """Groups of modules that import each other."""
        return [sorted(group) for group in _components(self.every) if len(group) > 1]

    def upward(self) -> list[str]:
        """Imports from a higher floor."""
        pairs = ((a, b) for a, targets in self.anywhere.items() for b in targets)
        return sorted(f"{a} -> {b}" for a, b in pairs if (floor(b) or 0) > (floor(a) if floor(a) is not None else 99))

    def packages(self) -> dict[str, tuple[int, int]]:
        """(files, lines) of each package of the second level."""
        files, lines = Counter[str](), Counter[str]()
        for module, count in self.lines.items():
            name = package(module)
            files[name] += 1
            lines[name] += count
        return {name: (files[name], lines[name]) for name in sorted(files)}

    def mutual(self) -> list[str]:
        """Pairs of packages that import each other; a file directly in ``vidllm`` counts as one, as in FLOORS."""
        unit = {module: module if package(module) == "vidllm" else package(module) for module in self.lines}
        arrows = {(unit[a], unit[b]) for a, targets in self.anywhere.items() for b in targets}
        return sorted(f"{a} <-> {b}" for a, b in arrows if a < b and (b, a) in arrows)


def package(module: str) -> str:
    """``vidllm.model.encoder`` belongs to ``vidllm.model``; ``vidllm.scene`` to ``vidllm``."""
    parts = module.split(".")
    return ".".join(parts[:2]) if (SRC / parts[0] / (parts[1] if len(parts) > 1 else "")).is_dir() else parts[0]


def floor(module: str) -> int | None:
    """The number of a module's floor; None for what belongs to none (the package's face)."""
    for number, names in enumerate(FLOORS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return number
    return None


def measure(src: Path = SRC) -> House:
    """Read every file under ``src``."""
    house, known = House(), {name_of(path, src) for path in src.rglob("*.py")}
    for path in sorted(src.rglob("*.py")):
        module, text = name_of(path, src), path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        house.lines[module] = text.count("\n")
        house.every[module] = set(_imports(ast.walk(tree), known)) - {module}
        house.anywhere[module] = set(_imports(_without_type_checking(tree), known)) - {module}
        wide = ((f"{module}:{f.name}", _arguments(f)) for f in _functions(tree))
        house.wide += [f"{name} ({n})" for name, n in wide if n > WIDE.get(name, MAX_ARGUMENTS)]
    return house


def name_of(path: Path, src: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(src).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not _is_type_checking(node):
            yield node
            yield from _without_type_checking(node)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _imports(nodes: Iterator[ast.AST], known: set[str]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    if function.name in PRESCRIBED:
        return 0
    given = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in given if name not in ("self", "cls")])


def _components(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = set()
            while node not in group:
                group.add(stack.pop())
            found.append(group)

    sys.setrecursionlimit(10_000)
    for node in graph:
        if node not in index:
            visit(node)
    return found


# ---- walks -------------------------------------------------------------------------------------------------------


class Walk:
    """Files that a call goes through: how many, and how often it comes back to one that it had left."""

    def __init__(self, rooms: Iterable[str] = ()) -> None:
        self.rooms = [name for name, _ in groupby(rooms)]

    def __enter__(self) -> Walk:
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _event(self, frame: object, event: str, _: object) -> None:
        name = frame.f_code.co_filename  # type: ignore[attr-defined]
        if event == "call" and "/src/vidllm" in name and (not self.rooms or self.rooms[-1] != name):
            self.rooms.append(name)

    def told(self) -> str:
        """One line."""
        seen: dict[str, int] = defaultdict(int)
        for room in self.rooms:
            seen[room] += 1
        return f"{len(seen)} files, {len(self.rooms)} changes of file"

    def files(self) -> list[str]:
        """Names in the order of their first call."""
        return [name.split("/src/")[1] for name in dict.fromkeys(self.rooms)]


def walks() -> Iterator[tuple[str, Walk]]:
    """A question about the bundled clip, and a step of stage 2 (geometry and language) from the loader to the loss."""
    import tempfile
    from dataclasses import replace

    import numpy as np
    import torch

    import vidllm
    from vidllm.training.config import NO_SUPERVISION, changed, tiny_test
    from vidllm.training.stage2 import Run
    from vidllm_rooms.shards import write_shard

    torch.set_num_threads(1)
    model = vidllm.load()
    with Walk() as walk:
        model.reconstruct(SRC.parent / "examples" / "room.mp4", num_frames=2).ask("How many chairs are there?")
    yield "a video and a question to an answer", walk
    with tempfile.TemporaryDirectory() as folder:
        write_shard(Path(folder) / "shards", [10000, 10001], 4, 56, 70)
        config = changed(tiny_test(), data=f"{folder}/shards", out=f"{folder}/run", device="cpu")
        run = Run.build(replace(config, supervision=NO_SUPERVISION))
        with Walk() as walk:
            batch = run.draw(3, np.random.default_rng(0))
            run.losses(batch, 3, np.random.default_rng(0))
    yield f"a batch of stage 2 ({batch[1]}) to its losses", walk


def report(house: House, use_known: bool = True) -> tuple[list[str], bool]:
    """The figures as lines, and whether no bound is broken but what is known."""
    circles, upward, mutual = house.circles(), house.upward(), house.mutual()
    long = [f"{name} ({n})" for name, n in house.lines.items() if n > MAX_FILE_LINES]
    over = [
        f"{name}: {lines} of {BUDGET[name]}" for name, (_, lines) in house.packages().items()
        if name in BUDGET and lines > BUDGET[name]
    ]  # fmt: skip
    lines = [f"{'package':24s}{'files':>6s}{'lines':>8s}"]
    lines += [f"{name:24s}{files:6d}{count:8d}" for name, (files, count) in house.packages().items()]
    lines.append(f"{'all':24s}{len(house.lines):6d}{sum(house.lines.values()):8d}")
    for what, found in (
        ("import circles", [" ".join(c) for c in circles]), ("upward imports", upward),
        ("packages that import each other", mutual), (f"functions of over {MAX_ARGUMENTS} arguments", house.wide),
        (f"files of over {MAX_FILE_LINES} lines", long), ("packages over their budget", over),
    ):  # fmt: skip
        lines.append(f"{what}: {len(found)}")
        lines += [f"  {item}" for item in found]
    known_circles, known = (KNOWN_CIRCLES, KNOWN) if use_known else ((), frozenset())
    broken = {*upward, *house.wide, *long, *over}
    new = [" ".join(c) for c in circles if not any(k.issuperset(c) for k in known_circles)] + sorted(broken - known)
    gone = [" ".join(sorted(k)) for k in known_circles if not any(k.issuperset(c) for c in circles)]
    gone += sorted(known - broken)
    lines += [f"NEW: {item}" for item in new] + [f"no longer occurs, take it out of KNOWN: {item}" for item in gone]
    return lines, not (new or gone)


def main() -> int:
    """Print the figures; 1 when a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("src", nargs="?", default=str(SRC))
    parser.add_argument("--walks", action="store_true", help="count the files that a question and a step enter")
    options = parser.parse_args()
    src = Path(options.src)
    lines, good = report(measure(src), use_known=src.resolve() == SRC)
    print("\n".join(lines))
    for name, walk in walks() if options.walks else ():
        print(f"{name}: {walk.told()}", *walk.files(), sep="\n  ")
        own = Walk([room for room in walk.rooms if "/vidllm/training/" in room or "/vidllm/datasets/" in room])
        if own.rooms:
            print(f"of these in training and datasets: {own.told()}", *own.files(), sep="\n  ")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
