"""The verbs that read a video: ask, describe, ground, reconstruct, demo."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidllm.cli import reading
from vidllm.cli.parser import FORMATS
from vidllm.model.prompts import check_question

if TYPE_CHECKING:
    from vidllm.scene import Box, Scene, VidLLM

IN_SCENE = {"frame": "scene", "units": "m"}
OF_VIDEOS = ("frames", "refine", "scale", "camera_height", "known_length", "intrinsics", "poses", "poses_scale",
             "window", "overlap")  # fmt: skip


def ask(options: argparse.Namespace) -> None:
    """``vidllm ask VIDEO QUESTION...``"""
    for question in options.questions:
        check_question(question)
    if options.situation is not None:
        check_question(options.situation, what="situation")
    scene = _scene(options)
    told = {} if options.situation is None else {"situation": options.situation}
    said = [{"question": q, **told, "answer": scene.ask(q, options.situation), **IN_SCENE} for q in options.questions]
    if options.json:
        reading.print_json(said if len(said) > 1 else said[0])
    else:
        print("\n".join(str(item["answer"]) for item in said))


def describe(options: argparse.Namespace) -> None:
    """``vidllm describe VIDEO [--at X,Y,Z]``"""
    at = None if options.at is None else reading.point(options.at)
    text = _scene(options).describe(at)
    if options.json:
        reading.print_json({"at": at, "description": text, **IN_SCENE})
    else:
        print(text)


def ground(options: argparse.Namespace) -> None:
    """``vidllm ground VIDEO EXPRESSION [-o PICTURE]``"""
    from vidllm.export.frames_picture import check_picture_name, write_frames_picture

    check_question(options.expression, what="expression")
    if options.output:
        check_picture_name(reading.writable(options.output))
    scene = _scene(options)
    _tell_doubts(scene)
    boxes = scene.ground(options.expression)
    if options.output:
        write_frames_picture(options.output, scene.data, [box.as_dict() for box in boxes])
    if options.json:
        reading.print_json({"expression": options.expression, "boxes": [b.as_dict() for b in boxes], **IN_SCENE})
    else:
        print("\n".join(box_lines(boxes)) or f"no such object: {options.expression}")


def box_lines(boxes: Sequence[Box]) -> list[str]:
    """One line a box: where, how large, turned by how much, how sure."""
    return [
        f"{number}  centre {_numbers(b.center)} m  size {_numbers(b.size)} m  "
        f"yaw {math.degrees(b.yaw):.0f} deg  score {b.score:.2f}"
        for number, b in enumerate(boxes, 1)
    ]


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.2f}" for v in values) + ")"


def reconstruct(options: argparse.Namespace) -> None:
    """``vidllm reconstruct VIDEO -o OUT``"""
    names = reading.formats(options.format, FORMATS)
    for expression in options.ground:
        check_question(expression, what="expression")
    folder = reading.writable_folder(options.output)
    scene = _scene(options)
    _tell_doubts(scene)
    found = [(e, scene.ground(e)) for e in options.ground]
    files = scene.save(folder, names, [box for _, boxes in found for box in boxes])
    summary = {"video": options.video, **scene.summary(), "files": [str(f) for f in files]}
    if options.ground:
        summary["ground"] = [{"expression": e, "boxes": [b.as_dict() for b in boxes]} for e, boxes in found]
    if options.json:
        reading.print_json(summary)
    else:
        print("\n".join(_summary_lines(summary, found)))


def _summary_lines(summary: dict[str, Any], found: list[tuple[str, list[Box]]]) -> list[str]:
    height, width = summary["processed_size"]
    spread = summary["scale_spread"]
    agree = f"the images agree within {100 * spread:.0f}%"
    agree = "the agreement of the images is unknown" if math.isnan(spread) else agree
    lines = [
        f"frames        {summary['frames']} at {width}x{height} pixels",
        f"scale         {summary['scale']:.3f} m per unit, {agree}",
        f"median depth  {summary['median_depth']:.2f} m",
        f"camera path   {summary['camera_path_length']:.2f} m",
    ]
    for expression, boxes in found:
        lines += [f"found         {expression}: {line}" for line in box_lines(boxes) or ["no such object"]]
    return lines + [f"wrote         {file}" for file in summary["files"]]


def demo(options: argparse.Namespace) -> None:
    """``vidllm demo [-o OUT]``"""
    from vidllm.evaluation import demo as bundled

    folder = None if options.output is None else reading.writable_folder(options.output)
    truth = bundled.load_truth()
    scene = _model(options).reconstruct(bundled.CLIP, len(truth.depth_m))
    report = bundled.report(scene, truth)
    if folder is not None:
        report["files"] = [str(f) for f in scene.save(folder, boxes=bundled.found_boxes(scene, truth))]
    if options.json:
        reading.print_json(report)
    else:
        print("\n".join(bundled.lines(report)))


def _model(options: argparse.Namespace, default: Path | None = None) -> VidLLM:
    from vidllm.scene import load

    place = default if options.model is None else options.model
    return load(place, options.device, options.dtype, options.language_dtype, options.offload, options.refine)


def _scene(options: argparse.Namespace) -> Scene:
    """The reconstructed video, or the saved scene; a missing one is told before a model is loaded for it."""
    count = reading.frames(options.frames)
    reading.source(options.video)
    if reading.is_saved_scene(options.video):
        return _saved(options)
    known = reading.known_scale(options.scale, options.camera_height, options.known_length)
    cameras = reading.known_cameras(options.intrinsics, options.poses, options.poses_scale, options.one_lens)
    model = _model(options)
    line = reading.Progress("frames", count)
    return model.reconstruct(options.video, count, known, options.window, options.overlap, line, cameras)


def _saved(options: argparse.Namespace) -> Scene:
    """A saved scene; ValueError for options that can change nothing in it."""
    from vidllm.saved_scene import restored
    from vidllm.scene_file import SceneFile

    given = [f"--{name.replace('_', '-')}" for name in OF_VIDEOS if getattr(options, name) is not None]
    if given:
        raise ValueError(f"{options.video} is a saved scene, without effect on it: {', '.join(given)}; "
                         "give the video to reconstruct it again")  # fmt: skip
    saved = SceneFile.read(options.video)
    return restored(saved, _model(options, saved.place() if options.model is None else None))


def _tell_doubts(scene: Scene) -> None:
    for doubt in scene.scale.warnings:
        reading.note(f"vidllm: warning: {doubt}")
