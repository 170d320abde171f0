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
from typing import TYPE_CHECKING, Any

from vidllm.io.processes import Stopped, sigterm_raises

if TYPE_CHECKING:
    from vidllm.cli.options import Verb

__all__ = ["main"]

_MAX_MESSAGE = 600
#: Command: module, its dataclass, one line of help. train and ablate take a subcommand before their options.
VERBS = {
    "ask": ("scenes", "Ask", "answer questions about a video, one answer per line"),
    "describe": ("scenes", "Describe", "describe the room, or the object at a point"),
    "ground": ("scenes", "Ground", "find the objects that an expression refers to: boxes in metres"),
    "inventory": ("scenes", "TakeInventory", "list all objects of the room, its floor and the camera path"),
    "measure": ("scenes", "Measure", "measure one or two objects and the distance between them, in metres"),
    "reconstruct": ("scenes", "Reconstruct", "write cameras, depth and points in metres"),
    "demo": ("scenes", "Demo", "run the bundled clip, print the errors against its ground truth, open a 3D page"),
    "serve": ("serving", "Serve", "serve a web page, an OpenAI-compatible API and MCP over HTTP"),
    "mcp": ("serving", "Mcp", "serve tools for an agent over standard input and output (MCP)"),
    "info": ("models", "Info", "print the parameters of each part, without allocating them"),
    "train": ("training", "train", "train a model or a baseline"),
    "ablate": ("training", "ablate", "train and evaluate the rows of the paper's ablation tables"),
    "import": ("models", "Import", "make a model from published checkpoints: files, folders or hub ids"),
    "eval": ("evaluating", "Evaluate", "run a model on a benchmark, or score a file of predictions"),
    "compare": ("evaluating", "Compare", "compare two files of predictions: difference and interval"),
    "rooms render": ("rooms", "Render", "render procedural rooms with ground truth, one folder per room"),
    "rooms export": ("rooms", "Export", "write rooms in the layouts of ScanNet and its language datasets"),
    "rooms shards": ("rooms", "Shards", "render rooms as training shards; finished shards are kept"),
    "rooms eval": ("rooms", "Evaluate", "evaluate a model and baselines on unseen rooms"),
    "rooms calibrate": ("rooms", "Calibrate", "calibrate a model's uncertainties on rooms, or check the calibration"),
    "data check": ("data", "Check", "list present, missing and damaged files of ScanNet datasets or of your own data"),
    "data pack": ("data", "Pack", "write ScanNet scenes and their texts as training shards; packed scenes are kept"),
    "data label": ("data", "LabelClips", "label the pictures of clips with a detector, for training"),
    "data seen": ("data", "SeenIn", "check whether a model was trained on the scenes of a benchmark"),
    "data score": ("data", "Score", "evaluate a model on your own data"),
}
GROUPS = ("rooms", "data")
#: Heading of a module's commands in the help.
HEADINGS = {"scenes": "use a model on a video", "serving": "servers", "models": "models", "training": "training",
            **dict.fromkeys(("evaluating", "rooms", "data"), "evaluation and data")}  # fmt: skip


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
    if argv[:1] == ["--version"]:
        from vidllm import __version__

        print(f"vidllm {__version__}")
    elif argv[:1] in (["-h"], ["--help"]):
        print(_help("vidllm", VERBS))
    elif argv[:1] in (["train"], ["ablate"]):
        getattr(import_module("vidllm.cli.training"), argv[0])(argv[1:])
    elif len(argv) > 1 and argv[0] in GROUPS and argv[1] in ("-h", "--help"):
        print(_help(f"vidllm {argv[0]}", {name: told for name, told in VERBS.items() if name.startswith(argv[0])}))
    else:
        read_verb(argv).run()


def read_verb(argv: list[str]) -> Verb:
    """A command with its options; ValueError of one line for a wrong one. Not for train and ablate."""
    prog = f"vidllm {argv[0]}" if argv[:1] and argv[0] in GROUPS else "vidllm"
    length = len(prog.split())
    name = " ".join(argv[:length])
    if len(argv) < length:
        raise ValueError(f"the following arguments are required: COMMAND; see {prog} --help")
    if name not in VERBS:
        raise ValueError(f"unknown command {argv[length - 1]!r}; see {prog} --help")
    from vidllm.cli.options import parse

    module, kind, _ = VERBS[name]
    verb: Verb = parse(getattr(import_module(f"vidllm.cli.{module}"), kind), f"vidllm {name}", argv[length:])
    return verb


def _help(prog: str, verbs: dict[str, tuple[str, str, str]]) -> str:
    lines = [f"usage: {prog} COMMAND [OPTIONS]", "", "Reconstruct a room from a video in metres and answer questions "
             "about it."]  # fmt: skip
    for heading in dict.fromkeys(HEADINGS.get(module, module) for module, _, _ in verbs.values()):
        lines += ["", f"{heading}:"]
        lines += [f"  {name:16s}{told}" for name, (module, _, told) in verbs.items()
                  if HEADINGS.get(module, module) == heading]  # fmt: skip
    return "\n".join([*lines, "", "Options of a command: vidllm COMMAND --help. Version: vidllm --version."])


def explain(error: Exception) -> str:
    """One line for an error."""
    text = " ".join(str(error).split())
    no_room = isinstance(error, RuntimeError) and "allocate memory" in text  # torch's allocator on the CPU
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or no_room:
        return "out of memory; use fewer frames (--frames), a smaller model, or --dtype bfloat16"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    elif not isinstance(error, ValueError | OSError):
        what = text or type(error).__name__
        text = f"internal error: {what}; please report it with the traceback that VIDLLM_DEBUG=1 shows"
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
    """Print warnings of vidllm as one line each, and none of the libraries'."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"vidllm(_rooms)?\.")
        warnings.showwarning = _show_warning
        yield


def _show_warning(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    if not os.environ.get("VIDLLM_QUIET"):
        print(f"vidllm: warning: {' '.join(str(message).split())}", file=sys.stderr)
