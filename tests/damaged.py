"""Damaged inputs for every file format that a command opens, and a child process that runs one command on one of them.

A child is forked from the warm process (nothing is imported twice), has its own file descriptors, and is killed when it
takes too long. What it did is told by :class:`Outcome`; :func:`fault` says what of it is wrong.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

SECONDS = 10.0  # of processor time
HANG = 90.0  # of wall clock, on a machine that does other work as well
GIGABYTE = 2**30
WORDS_OF_WARNING = ("warning", "made again")
WORDS_NEVER_SHOWN = ("VIDLLM_DEBUG", "Traceback", "weights_only")


@dataclass(frozen=True)
class Target:
    """A file that a command reads, the command line, and whether the file's text is JSON.

    ``path``: below the sandbox; a pattern stands for the first file that fits.
    ``names``: what a message may call the file by; a folder that is read as one thing has the folder's name too.
    ``field``: the key in JSON below which a value is damaged, where the first value of all is one that the command does
    not read. ``optional``: the command can do without the file, and may say nothing of it. ``harmless``: damages that
    leave a file that can be read, besides :data:`HARMLESS`.
    """

    path: str
    command: tuple[str, ...]
    json: bool = False
    names: tuple[str, ...] = ()
    field: str | None = None
    optional: bool = False
    harmless: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a child did: exit code (-9 when killed), both outputs, processor seconds, growth of its memory in bytes."""

    code: int
    out: str
    err: str
    seconds: float
    grown: int


# ---- damages -----------------------------------------------------------------------------------------------------


def damages(target: Target) -> list[str]:
    """Names of the damages that make sense for a target."""
    every = ["empty", "cut", "flipped", "fifo", "zero", "other"]
    return every + (["type", "deep", "digits", "nan", "latin"] if target.json else [])


HARMLESS = {"flipped", "nan", "latin", "cut"}  # what may leave a file that can be read


def damage(path: Path, kind: str, rng: np.random.Generator, field: str | None = None) -> None:
    """Damage a file in place; see :class:`Target` for ``field``."""
    content = path.read_bytes()
    if kind == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif kind == "zero":
        path.unlink()
        path.symlink_to("/dev/zero")
    elif kind == "deep":
        path.write_text("[" * 200_000)
    elif kind in ("digits", "nan", "type"):
        _first_value(path, {"digits": 10**400, "nan": float("nan"), "type": {"a": [None]}}[kind], field)
    else:
        path.write_bytes(_changed(content, kind, rng))


def _changed(content: bytes, kind: str, rng: np.random.Generator) -> bytes:
    if kind == "empty":
        return b""
    if kind == "cut":
        return content[: int(len(content) * rng.uniform(0.3, 0.9))]
    if kind == "other":
        return b"%PDF-1.7\n\x00\xff not the file you look for\n"
    if kind == "latin":
        return content.replace(b'"', b'"\xe9', 1)
    changed = bytearray(content)
    for place in rng.integers(0, max(1, len(changed)), max(1, len(changed) // 2000)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _first_value(path: Path, value: Any, field: str | None) -> None:
    """The first number of a JSON file (or text, where it has no number) replaced; JSON lines: in the first line."""
    text = path.read_text()
    lines = path.suffix == ".jsonl"
    content = json.loads(text.splitlines()[0] if lines else text)
    found = None if field is None else _below(content, field)
    place = content if field is None else {field: found}
    if not _replace(place, value, (int, float)):
        _replace(place, value, (str,))
    if field is not None and not isinstance(found, dict | list):  # the value itself
        _set(content, field, place[field])
    sys.set_int_max_str_digits(0)
    first = json.dumps(content)
    path.write_text("\n".join([first, *text.splitlines()[1:]]) + "\n" if lines else first)


def _inner(content: Any) -> list[Any]:
    return list(content.values()) if isinstance(content, dict) else content if isinstance(content, list) else []


def _below(content: Any, field: str) -> Any:
    """What lies under the first key of this name; None where there is none."""
    if isinstance(content, dict) and field in content:
        return content[field]
    return next((found for part in _inner(content) if (found := _below(part, field)) is not None), None)


def _set(content: Any, field: str, value: Any) -> bool:
    if isinstance(content, dict) and field in content:
        content[field] = value
        return True
    return any(_set(part, field, value) for part in _inner(content))


def _replace(content: Any, value: Any, kinds: tuple[type, ...]) -> bool:
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, inner in list(pairs):
        if isinstance(inner, kinds) and not isinstance(inner, bool):
            content[key] = value
            return True
        if _replace(inner, value, kinds):
            return True
    return False


# ---- one command in a child --------------------------------------------------------------------------------------


def run_child(command: tuple[str, ...], folder: Path) -> Outcome:
    """Run a command line in a fork of this process, its working folder a sandbox."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = [folder / "stdout.txt", folder / "stderr.txt"]
    pid = os.fork()
    if pid == 0:
        _child(command, folder, files)
    status, used = _wait(pid)
    code = os.waitstatus_to_exitcode(status)
    texts = [file.read_text(errors="replace") if file.exists() else "" for file in files]
    for file in files:
        file.unlink(missing_ok=True)
    grown = max(0, used.ru_maxrss - before) * 1024
    return Outcome(code, texts[0], texts[1], used.ru_utime + used.ru_stime, grown)


def _child(command: tuple[str, ...], folder: Path, files: list[Path]) -> None:
    code = 99
    try:
        os.setsid()
        os.chdir(folder)
        for number, file in zip((1, 2), files, strict=True):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        resource.setrlimit(resource.RLIMIT_AS, (24 * GIGABYTE, 24 * GIGABYTE))
        from vidllm.cli import main

        torch.set_num_threads(1)
        code = main(list(command))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(pid: int) -> tuple[int, resource.struct_rusage]:
    until = time.monotonic() + HANG
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            return status, used
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
            _, status, used = os.wait4(pid, 0)
            return status, used
        time.sleep(0.02)


def fault(target: Target, kind: str, outcome: Outcome) -> str | None:
    """What is wrong with how a command met a damaged file; None when nothing is."""
    text = outcome.out + outcome.err
    if outcome.code == -9:
        return "hangs"
    if outcome.code not in (0, 2):
        return f"exit code {outcome.code}: {text[-300:]}"
    shown = [word for word in WORDS_NEVER_SHOWN if word in text]
    if shown:
        return f"shows {shown}: {text[-400:]}"
    if outcome.seconds > SECONDS:
        return f"takes {outcome.seconds:.0f} s"
    if outcome.grown > GIGABYTE:
        return f"takes {outcome.grown / GIGABYTE:.1f} GB"
    names = (Path(target.path).name, *target.names)
    if outcome.code == 0:
        lines = [line for line in outcome.err.splitlines() if any(word in line for word in WORDS_OF_WARNING)]
        warned = any(name in line for name in names for line in lines)
        fine = kind in HARMLESS or kind in target.harmless or target.optional or warned
        return None if fine else f"accepted: {outcome.err[-300:]} {outcome.out[:100]}"
    errors = [line for line in outcome.err.splitlines() if line.startswith("vidllm: error: ")]
    if len(errors) != 1:
        return f"not one line: {outcome.err[-400:]!r}"
    if not any(name in text for name in names):
        return f"does not name {' or '.join(names)}: {errors[0]}"
    return None


def attempt(
    build: Callable[[Path, Target], None], target: Target, kind: str, folder: Path, seed: int = 0
) -> str | None:
    """Copy a good set of files, damage one, run the command: what was wrong, None when nothing was."""
    shutil.rmtree(folder, ignore_errors=True)
    build(folder, target)
    damage(min(folder.glob(target.path)), kind, np.random.default_rng(seed), target.field)
    try:
        told = fault(target, kind, run_child(target.command, folder))
        return told or _left_behind(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _left_behind(folder: Path) -> str | None:
    left = [p for p in folder.rglob("*") if ".part" in p.name or p.name.startswith(".tmp")]
    return f"leaves {left[0].relative_to(folder)} behind" if left else None
