"""The size ratchet: functions median <= 12 lines, ninth decile <= 40, none over 80; files none over 500 lines."""

from __future__ import annotations

import ast
import sys
from pathlib import Path


def function_lengths(path: Path) -> list[tuple[int, str]]:
    """Length in lines and ``file:name`` of every function of one file, nested ones included."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [((n.end_lineno or n.lineno) - n.lineno + 1, f"{path}:{n.name}") for n in functions]


def main(root: Path) -> int:
    """Print the figures of ``root``; 1 when a bound is broken."""
    paths = sorted(root.rglob("*.py"))
    files = sorted((len(p.read_text(encoding="utf-8").splitlines()), str(p)) for p in paths)
    functions = sorted(pair for p in paths for pair in function_lengths(p))
    if not functions:
        print(f"no Python function under {root}")
        return 1
    figures = {
        "function median": (functions[len(functions) // 2], 12),
        "function p90": (functions[min(len(functions) - 1, len(functions) * 9 // 10)], 40),
        "function max": (functions[-1], 80),
        "file max": (files[-1], 500),
    }
    for name, ((lines, where), bound) in figures.items():
        print(f"{name:16s}{lines:4d} (bound {bound:3d}){'  ' + where if name.endswith('max') else ''}")
    broken = [w for n, w in functions if n > 80] + [w for n, w in files if n > 500]
    print(f"{len(functions)} functions in {len(files)} files" + "".join(f"\ntoo long: {w}" for w in broken))
    return int(any(lines > bound for (lines, _), bound in figures.values()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "src"))
