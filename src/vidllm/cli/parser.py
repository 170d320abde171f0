"""The parser: verbs, their options, and errors of one line."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

WEIGHT_DTYPES = ("float32", "bfloat16", "float16")
DTYPES = ("auto", *WEIGHT_DTYPES)
LANGUAGE_DTYPES = ("int8", "int4")
FORMATS = ("depth", "cameras", "tum", "ply", "overview", "glb", "colmap", "nerfstudio", "scene")
DEFAULT_FORMATS = FORMATS[:5]
EVALUATION_TASKS = ("scanqa", "sqa3d", "scan2cap", "scanrefer", "multi3drefer", "nr3d", "sr3d", "reconstruction")
_TAKES_POINT = ("--at",)  # options whose value may begin with a minus and hold commas


class LineParser(argparse.ArgumentParser):
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
    parser = LineParser(prog="vidllm", description="An ordinary video in, metres and answers out.")
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(dest="command", metavar="VERB", required=True, parser_class=LineParser)
    _add_scene_verbs(verbs)
    _add_model_verbs(verbs)
    _add_import(verbs)
    _add_rooms(verbs)
    _add_data(verbs)
    _add_evaluation(verbs)
    return parser


def _version() -> str:
    from vidllm import __version__

    return f"vidllm {__version__}"


def _add_scene_verbs(verbs: Any) -> None:
    ask = _verb(verbs, "ask", "answer questions about a video, one answer per line")
    ask.add_argument("video", help="a video file, a folder of pictures, or a saved scene")
    ask.add_argument("questions", nargs="+", metavar="question", help="one or several; the video is encoded once")
    ask.add_argument("--situation", help="your position and viewing direction, e.g. 'I am sitting on the sofa.'")
    _model_options(ask)
    _memory_options(ask)
    _known_options(ask)
    _window_options(ask)
    describe = _verb(verbs, "describe", "describe the room, or the object at a point")
    describe.add_argument("video", help="as for ask")
    describe.add_argument("--at", metavar="X,Y,Z", help="a point of the scene frame in metres")
    _model_options(describe)
    _memory_options(describe)
    _known_options(describe)
    _window_options(describe)
    ground = _verb(verbs, "ground", "find the objects that an expression means: boxes in metres")
    ground.add_argument("video", help="as for ask")
    ground.add_argument("expression", help="e.g. 'the chair right of the sofa'")
    ground.add_argument("-o", "--output", metavar="PICTURE", help="write a picture of the frames with the boxes")
    _model_options(ground)
    _memory_options(ground)
    _known_options(ground)
    _window_options(ground)
    reconstruct = _verb(verbs, "reconstruct", "write cameras, depth and points in metres")
    reconstruct.add_argument("video", help="as for ask")
    reconstruct.add_argument("-o", "--output", required=True, metavar="OUT", help="folder; created if missing")
    reconstruct.add_argument("--format", metavar="A,B,...", default=",".join(DEFAULT_FORMATS),
                             help=f"any of {', '.join(FORMATS)} (default: the first five); scene: a saved scene, "
                             "to be asked later in place of the video")  # fmt: skip
    reconstruct.add_argument("--ground", action="append", default=[], metavar="EXPRESSION",
                             help="also find this and draw its boxes in the overview; may be repeated")  # fmt: skip
    _model_options(reconstruct)
    _memory_options(reconstruct)
    _known_options(reconstruct)
    _window_options(reconstruct)
    demo = _verb(verbs, "demo", "run the bundled clip and print the errors against its ground truth")
    demo.add_argument("-o", "--output", metavar="OUT", help="also write the reconstruction to this folder")
    _model_options(demo, frames=False)
    _memory_options(demo)


def _add_model_verbs(verbs: Any) -> None:
    info = _verb(verbs, "info", "parameters of each part, without allocating any")
    info.add_argument("model", nargs="?", help="tiny, compact, paper or a model's folder (default: the shipped model)")
    info.add_argument("--json", action="store_true", help="JSON on standard output")
    info.add_argument("--frames", type=int, metavar="N", help="also operations and memory for a video of N frames")
    info.add_argument("--language-dtype", choices=LANGUAGE_DTYPES, help="of the language model, for its memory")
    _verb(verbs, "train", "train a model or a baseline; see vidllm train --help")
    _verb(verbs, "ablate", "train and measure the paper's ablations; vidllm ablate --help")


def _add_import(verbs: Any) -> None:
    take = _verb(verbs, "import", "make a model from published checkpoints: files, folders or hub ids")
    take.add_argument("--preset", required=True, choices=("cascade", "paper", "compact", "tiny"),
                      help="cascade (VGGT and LLaVA-3D as they are), or a Vid-LLM initialised from them")  # fmt: skip
    take.add_argument("--vggt", metavar="PLACE", help="VGGT-1B: encoder and geometry")
    take.add_argument("--llava-3d", metavar="PLACE", help="LLaVA-3D-7B: language model, projector, position embedding")
    take.add_argument("--dinov2", metavar="PLACE", help="DINOv2 with registers, in place of VGGT's encoder")
    take.add_argument("--lm", metavar="PLACE", help="any Hugging Face causal language model, in place of LLaVA-3D's")
    take.add_argument("--clip", metavar="PLACE", help="cascade: CLIP-L/14-336, where LLaVA-3D's folder lacks it")
    take.add_argument("--metric", metavar="MODEL", help="cascade: a vidllm model whose metric depth gives the scale")
    take.add_argument("--metric-depth", metavar="PLACE", help="cascade: a depth estimator of transformers that gives "
                      "metres (ZoeDepth, Depth Anything metric, Depth Pro, GLPN)")  # fmt: skip
    take.add_argument("--camera-height", type=float, metavar="M", help="cascade: height of the camera over the "
                      "floor in metres, if a video has no other known scale")  # fmt: skip
    take.add_argument("--shorter-side", type=int, metavar="N", help="pixels of the frames (default: the preset's)")
    take.add_argument("--weights-dtype", choices=WEIGHT_DTYPES,
                      help="dtype of the weights that are written (default: as in the checkpoints)")  # fmt: skip
    take.add_argument("-o", "--output", required=True, metavar="M", help="folder of the model; created if missing")
    take.add_argument("--every-key", action="store_true", help="list every key in the report")
    take.add_argument("--json", action="store_true", help="JSON on standard output")


def _add_rooms(verbs: Any) -> None:
    rooms = _verb(verbs, "rooms", "procedural rooms: render, export, shards, eval")
    kinds = rooms.add_subparsers(dest="command", metavar="VERB", required=True, parser_class=LineParser)
    render = _verb(kinds, "render", "write rooms with ground truth as folders in the ScanNet layout")
    _seeds(render, None)
    render.add_argument("-o", "--output", required=True, metavar="OUT")
    render.add_argument("--frames", type=int, default=24)
    render.add_argument("--size", default="240x320", metavar="HxW", help="pixels (default 240x320)")
    export = _verb(kinds, "export", "write rooms as ScanNet and its language sets are distributed")
    _seeds(export, None)
    export.add_argument("-o", "--output", required=True, metavar="ROOT", help="finished scenes in it are kept")
    export.add_argument("--frames", type=int, default=24, metavar="N")
    export.add_argument("--size", default="240x320", metavar="HxW", help="pixels of colour (default 240x320)")
    export.add_argument("--split", default="val", choices=("train", "val", "test"), help="(default val)")
    shards = _verb(kinds, "shards", "write training data; finished shards are kept")
    _seeds(shards, None)
    shards.add_argument("-o", "--output", required=True, metavar="DIR")
    shards.add_argument("--frames", type=int, default=8)
    shards.add_argument("--shorter-side", type=int, default=112, metavar="N",
                        help="pixels, whole patches of 14 (default 112, tiny's; compact and paper: 518)")  # fmt: skip
    shards.add_argument("--look", choices=("plain", "life"), default="plain",
                        help="life: clutter, close or shaking cameras, a phone's pictures (default plain)")  # fmt: skip
    evaluate = _verb(kinds, "eval", "evaluate a model and baselines on unseen rooms")
    _seeds(evaluate, "1000:1200")
    _model_options(evaluate)
    evaluate.add_argument("--blind", metavar="FOLDER", help="the language-only baseline (default: the shipped one)")


def _add_data(verbs: Any) -> None:
    data = _verb(verbs, "data", "downloaded or own data: check, pack, repack, score")
    kinds = data.add_subparsers(dest="command", metavar="VERB", required=True, parser_class=LineParser)
    check = _verb(kinds, "check", "list what is present, missing or damaged in ScanNet's sets or in your own data")
    check.add_argument("root", help="the folder that holds scans/ and the annotation files; or your own FILE.jsonl")
    check.add_argument("--quick", action="store_true", help="check that scenes and videos exist, without reading them")
    check.add_argument("--strict", action="store_true",
                       help="exit code 2 if a count differs from the official one, or if there are notes")  # fmt: skip
    check.add_argument("--json", action="store_true", help="JSON on standard output")
    score = _verb(kinds, "score", "evaluate a model on your own data")
    score.add_argument("file", metavar="FILE.jsonl", help="docs/fine_tuning.md has the format")
    _model_options(score)
    pack = _verb(kinds, "pack", "write training data with resized frames; packed scenes are kept")
    pack.add_argument("root", help="the folder that holds scans/ and the annotation files")
    pack.add_argument("-o", "--output", required=True, metavar="DIR")
    pack.add_argument("--frames", type=int, default=32, metavar="N", help="frames per scene (default 32)")
    pack.add_argument("--shorter-side", type=int, default=518, metavar="N", help="pixels (default 518)")
    pack.add_argument("--scenes", action="append", metavar="A,B,...", help="these alone; may be repeated")
    pack.add_argument("--per-shard", type=int, default=4, metavar="N", help="scenes per shard (default 4)")
    _add_repack(kinds)


def _add_repack(kinds: Any) -> None:
    repack = _verb(kinds, "repack", "convert packed scenes to training shards; finished shards are kept")
    repack.add_argument("pack", help="a folder that vidllm data pack wrote")
    repack.add_argument("-o", "--output", required=True, metavar="DIR")
    repack.add_argument("--split", default="train", help="split of the texts; scenes without any are left out "
                        "(default train)")  # fmt: skip


def _add_evaluation(verbs: Any) -> None:
    evaluate = _verb(verbs, "eval", "run a model on a benchmark, or score a file of predictions, with a named protocol")
    evaluate.add_argument("task", metavar="TASK", choices=EVALUATION_TASKS, help=", ".join(EVALUATION_TASKS))
    evaluate.add_argument("--predictions", metavar="FILE", help="a file to score, as submitted to the benchmark")
    evaluate.add_argument("--references", metavar="FILE", help="the benchmark's annotations, as distributed")
    evaluate.add_argument("--protocol", metavar="NAME", default="official",
                          help="evaluation script to reproduce, or all (default: official)")  # fmt: skip
    evaluate.add_argument("--per-item", metavar="OUT.json", help="also write the scores of every item")
    _add_benchmark(evaluate)
    _model_options(evaluate)
    evaluate.set_defaults(command="evaluate")


def _add_benchmark(evaluate: argparse.ArgumentParser) -> None:
    group = evaluate.add_argument_group("running a model")
    group.add_argument("--data", metavar="ROOT", help="run the model on the data under this folder")
    group.add_argument("-o", "--output", metavar="OUT", help="predictions and results; interrupted runs resume")
    group.add_argument("--split", default="val", help="split of the annotations (default val)")
    group.add_argument("--scenes", action="append", metavar="A,B,...", help="these alone; may be repeated")
    group.add_argument("--setting", action="append", metavar="A,B,...",
                       help="raw, proposals, oracle-geometry (default: all that are available)")  # fmt: skip
    group.add_argument("--proposals", choices=("mask3d", "gt"), help="source of proposals (default mask3d if present)")
    group.add_argument("--baselines", action="append", metavar="A,B,...",
                       help="2d, language-only, most-frequent, mean-box, none (default: all of the task)")  # fmt: skip
    group.add_argument("--blind", metavar="FOLDER", help="the language-only baseline (default: the shipped one)")


def _verb(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(parser=parser)
    return parser


def _known_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("known scale (one of these, in place of the predicted one)")
    group.add_argument("--scale", type=float, metavar="X", help="metres per unit of the reconstruction")
    group.add_argument("--camera-height", type=float, metavar="M", help="height of the camera over the floor in metres")
    group.add_argument("--known-length", metavar="FRAME:U,V:U,V=M",
                       help="two pixels of a sampled frame (original size) that are M metres apart")  # fmt: skip
    group = parser.add_argument_group("known cameras (docs/known_cameras.md)")
    group.add_argument("--intrinsics", metavar="FILE|fx,fy,cx,cy", help="in pixels of the original pictures, whose "
                       "middle is W/2, H/2; or a cameras.json, transforms.json, a matrix (.txt, .npy), OpenCV's .yaml, "
                       ".csv, or a folder of COLMAP")  # fmt: skip
    group.add_argument("--poses", metavar="FILE", help="cameras.json, transforms.json, a TUM trajectory, .csv, .npy, "
                       "a folder of COLMAP, or of matrices (ScanNet, 7-Scenes)")  # fmt: skip
    group.add_argument("--poses-scale", choices=("metric", "unknown"), help="unit of the poses (default: metric)")
    group.add_argument("--one-lens", action=argparse.BooleanOptionalAction, default=None,
                       help="the whole video has one lens with square pixels (default: where --refine adjusts the "
                       "focal length)")  # fmt: skip


def _window_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("long videos: overlapping windows of frames, with bounded memory")
    group.add_argument("--window", type=int, metavar="N",
                       help="frames per window (default: the model's, used for more than 64 frames)")  # fmt: skip
    group.add_argument("--overlap", type=int, metavar="N",
                       help="frames shared by neighbouring windows (default: a quarter)")  # fmt: skip


def _seeds(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument("--seeds", metavar="A:B", required=default is None, default=default,
                        help="seeds A to B - 1" + (f" (default {default})" if default else ""))  # fmt: skip


def _model_options(parser: argparse.ArgumentParser, frames: bool = True) -> None:
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    parser.add_argument("--model", help="a model's folder or hub id (default: the shipped model)")
    if frames:
        parser.add_argument("--frames", type=int, metavar="N",
                            help="frames to sample, evenly (default: as many as overlap)")  # fmt: skip
    parser.add_argument("--refine", action=argparse.BooleanOptionalAction, default=None,
                        help="bundle adjustment of cameras and depth: docs/refinement.md (default: the model's)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default cpu)")
    parser.add_argument("--dtype", default="auto", choices=DTYPES,
                        help="auto (default): bfloat16 where the hardware computes in it, else float32")  # fmt: skip


def _memory_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language-dtype", choices=LANGUAGE_DTYPES, help="quantise the language model's weights")
    parser.add_argument("--offload", choices=("cpu",), help="keep the language model's layers in host memory")
