"""The command line. Exit code 0, or 2 and one line that says what was wrong; 130 after Ctrl-C (SIGINT) and 143 after
SIGTERM, which remove incomplete files and let training write a checkpoint.

JSON and answers go to standard output, progress and warnings to standard error. torch and transformers are imported
only where needed, so that ``vidllm --help`` is fast; ``VIDLLM_DEBUG=1`` shows tracebacks.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from vidllm.cli.effects import check_options
from vidllm.cli.parser import build_parser, join_values
from vidllm.io.processes import Stopped, sigterm_raises

__all__ = ["main"]

_MAX_MESSAGE = 600
_HOME = {
    "ask": "scenes",
    "describe": "scenes",
    "ground": "scenes",
    "reconstruct": "scenes",
    "demo": "scenes",
    "info": "models",
    "import": "importing",
    "render": "worlds",
    "export": "worlds",
    "shards": "worlds",
    "check": "data",
    "pack": "data",
    "score": "data",
    "eval": "worlds",
    "evaluate": "evaluating",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    _quiet_libraries()
    try:
        with _warnings_as_lines(), sigterm_raises():
            _run(argv)
            sys.stdout.flush()
        return 0
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:  # standard output was closed, as by `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    except KeyboardInterrupt as stop:
        code = stop.exit_code if isinstance(stop, Stopped) else 130
        print("vidllm: interrupted" if code == 130 else "vidllm: terminated", file=sys.stderr)
        return code
    except Exception as error:
        if os.environ.get("VIDLLM_DEBUG"):
            raise
        print(f"vidllm: error: {explain(error)}", file=sys.stderr)
        return 2


def _run(argv: list[str]) -> None:
    if argv[:1] == ["train"]:
        import_module("vidllm.cli.training").train(argv[1:])
        return
    if argv[:1] == ["ablate"]:
        import_module("vidllm.cli.ablating").ablate(argv[1:])
        return
    options = build_parser().parse_args(join_values(argv))
    check_options(options, options.parser)
    module = import_module(f"vidllm.cli.{_HOME[options.command]}")
    getattr(module, "run_import" if options.command == "import" else options.command)(options)


def explain(error: Exception) -> str:
    """One line for an error: its own message where it was written for the user."""
    text = " ".join(str(error).split())
    no_room = isinstance(error, RuntimeError) and "allocate memory" in text  # torch's allocator on the CPU
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or no_room:
        return "out of memory; use fewer frames (--frames), a smaller model, or --dtype bfloat16"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    elif not isinstance(error, ValueError | OSError):
        what = text or type(error).__name__
        text = f"a fault of vidllm itself: {what}; please report it with what VIDLLM_DEBUG=1 shows"
    return text if len(text) <= _MAX_MESSAGE else f"{text[: _MAX_MESSAGE // 2]} ... {text[-_MAX_MESSAGE // 2 :]}"


def _quiet_libraries() -> None:
    """Turn off progress bars and advice of the libraries on standard error."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print our own warnings as one line each, and none of the libraries'."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"vidllm(_rooms)?\.")
        warnings.showwarning = _show_warning
        yield


def _show_warning(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    if not os.environ.get("VIDLLM_QUIET"):
        print(f"vidllm: warning: {' '.join(str(message).split())}", file=sys.stderr)
