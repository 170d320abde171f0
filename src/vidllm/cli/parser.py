"""What may be typed: the verbs, their arguments, and errors of one line."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

DTYPES = ("float32", "bfloat16", "float16")
FORMATS = ("depth", "cameras", "tum", "ply", "overview", "glb", "colmap", "nerfstudio")
DEFAULT_FORMATS = FORMATS[:5]
_TAKES_POINT = ("--at",)  # options whose value may begin with a minus and hold commas


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ValueErrors of one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise ValueError(f"{message}; see {self.prog} --help")


def join_values(argv: list[str]) -> list[str]:
    """``--at -1,0,2`` as ``--at=-1,0,2``: the value is not an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in _TAKES_POINT:
            joined[-1] = f"{joined[-1]}={word}"
        else:
            joined.append(word)
    return joined


def build_parser() -> argparse.ArgumentParser:
    """The parser of everything but the options of ``train``."""
    parser = _Parser(prog="vidllm", description="An ordinary video in, metres and answers out.")
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(dest="command", metavar="VERB", required=True, parser_class=_Parser)
    _add_scene_verbs(verbs)
    _add_model_verbs(verbs)
    _add_rooms(verbs)
    return parser


def _version() -> str:
    from vidllm import __version__

    return f"vidllm {__version__}"


def _add_scene_verbs(verbs: Any) -> None:
    ask = _verb(verbs, "ask", "answer questions about a video, one answer a line")
    ask.add_argument("video", help="a video file or a folder of pictures")
    ask.add_argument("questions", nargs="+", metavar="question", help="one or several; the video is read once")
    ask.add_argument("--situation", help="where you stand and look, e.g. 'I am sitting on the sofa.'")
    _model_options(ask)
    describe = _verb(verbs, "describe", "describe the room, or the object at a point")
    describe.add_argument("video")
    describe.add_argument("--at", metavar="X,Y,Z", help="a point of the scene frame in metres")
    _model_options(describe)
    ground = _verb(verbs, "ground", "find what an expression means: boxes in metres")
    ground.add_argument("video")
    ground.add_argument("expression", help="e.g. 'the chair right of the sofa'")
    ground.add_argument("-o", "--output", metavar="PICTURE", help="write the frames with the boxes drawn into them")
    _model_options(ground)
    reconstruct = _verb(verbs, "reconstruct", "write cameras, depth and points in metres")
    reconstruct.add_argument("video")
    reconstruct.add_argument("-o", "--output", required=True, metavar="OUT", help="folder; made when missing")
    reconstruct.add_argument("--format", metavar="A,B,...", default=",".join(DEFAULT_FORMATS),
                             help=f"any of {', '.join(FORMATS)} (default: the first five)")  # fmt: skip
    reconstruct.add_argument("--ground", action="append", default=[], metavar="EXPRESSION",
                             help="also find this and draw its boxes in the overview; may be repeated")  # fmt: skip
    _model_options(reconstruct)
    demo = _verb(verbs, "demo", "run the bundled clip and print the errors against its ground truth")
    demo.add_argument("-o", "--output", metavar="OUT", help="also write the reconstruction to this folder")
    _model_options(demo, frames=False)


def _add_model_verbs(verbs: Any) -> None:
    info = _verb(verbs, "info", "parameters by part, without allocating any")
    info.add_argument("model", nargs="?", help="tiny, compact, paper or a model's folder (default: the shipped model)")
    info.add_argument("--json", action="store_true", help="JSON on standard output")
    _verb(verbs, "train", "train a model: stage2 (or joint; the default) or blind; vidllm train stage2 --help")


def _add_rooms(verbs: Any) -> None:
    rooms = _verb(verbs, "rooms", "procedural rooms: render, shards, eval")
    kinds = rooms.add_subparsers(dest="command", metavar="VERB", required=True, parser_class=_Parser)
    render = _verb(kinds, "render", "write rooms with ground truth as folders in the ScanNet layout")
    _seeds(render, None)
    render.add_argument("-o", "--output", required=True, metavar="OUT")
    render.add_argument("--frames", type=int, default=24)
    render.add_argument("--size", default="240x320", metavar="HxW", help="pixels (default 240x320)")
    shards = _verb(kinds, "shards", "write training data; finished shards are not rendered twice")
    _seeds(shards, None)
    shards.add_argument("-o", "--output", required=True, metavar="DIR")
    shards.add_argument("--frames", type=int, default=8)
    evaluate = _verb(kinds, "eval", "measure a model on unseen rooms, beside its baselines")
    _seeds(evaluate, "1000:1200")
    _model_options(evaluate)
    evaluate.add_argument("--blind", metavar="FOLDER", help="the language-only baseline (default: the shipped one)")


def _verb(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    return parser


def _seeds(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument("--seeds", metavar="A:B", required=default is None, default=default,
                        help="seeds A to B - 1" + (f" (default {default})" if default else ""))  # fmt: skip


def _model_options(parser: argparse.ArgumentParser, frames: bool = True) -> None:
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    parser.add_argument("--model", help="a model's folder or hub id (default: the shipped model)")
    if frames:
        parser.add_argument("--frames", type=int, metavar="N", help="frames to sample (default: the model's)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default cpu)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
