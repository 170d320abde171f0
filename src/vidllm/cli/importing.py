"""The verb ``import``: published checkpoints to a model folder, with a report of every key and their licences."""

from __future__ import annotations

import argparse

from vidllm.cli import reading


def run_import(options: argparse.Namespace) -> None:
    """``vidllm import --preset PRESET --vggt PLACE --llava-3d PLACE -o M``"""
    import torch

    from vidllm.pretrained import Ingredients, import_model

    folder = reading.writable_folder(options.output)
    if options.shorter_side is not None and options.shorter_side < 14:
        raise ValueError(f"--shorter-side: expected at least 14 pixels, received {options.shorter_side}")
    if options.camera_height is not None and not options.camera_height > 0:
        raise ValueError(f"--camera-height: expected a positive number of metres, received {options.camera_height}")
    given = Ingredients(
        vggt=options.vggt, llava_3d=options.llava_3d, dinov2=options.dinov2, lm=options.lm, clip=options.clip,
        metric=options.metric, metric_depth=options.metric_depth,
        camera_height_m=options.camera_height, shorter_side=options.shorter_side,
    )  # fmt: skip
    dtype = None if options.weights_dtype is None else getattr(torch, options.weights_dtype)
    report = import_model(options.preset, given, folder, dtype)
    if options.json:
        reading.print_json({"model": str(folder), **report.as_dict()})
        for line in report.licence_lines():
            reading.note(line)
    else:
        print("\n".join([*report.lines(options.every_key), f"wrote     {folder}"]))
