"""The commands info and import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vidllm.cli import reading
from vidllm.cli.options import NO_HINT, Effect, Flag, Frames, Metres, Output, Place, Verb, Whole, one_of, read_by


@dataclass(frozen=True)
class Info(Verb):
    """Print the parameters of each part, without allocating them."""

    EFFECTS = (
        Effect(("language_dtype",), "it needs --frames, and affects the memory", lambda o: o.frames is not None),
    )

    model: Annotated[Positional[str | None], arg(metavar="MODEL", help_behavior_hint="")] = None
    """tiny, compact, paper or a model's folder (default: the shipped model)"""
    json: Flag = False  # JSON on standard output
    frames: Frames = None  # also print operations and memory for a video of N frames
    language_dtype: Annotated[str | None, one_of("int8", "int4"), NO_HINT] = None
    """count the memory with the language model in this precision"""

    def run(self) -> None:
        from vidllm.model.configuration import TINY
        from vidllm.model.loading import load_config
        from vidllm.model.presets import PRESETS, preset
        from vidllm.profiling import costs, extent_of, memory, parts, total

        config = preset(self.model) if self.model in PRESETS else load_config(self.model or TINY)
        rows = parts(config)
        flops, used = [], []  # operations by part and bytes by purpose for a 4:3 video, in bfloat16
        if self.frames:
            extent = extent_of(config, self.frames)
            flops = [(row.name, row.flops) for row in costs(config, extent) if row.flops]
            used = memory(config, extent, self.language_dtype or "bfloat16")
        table = [{"part": row.name, "form": row.form, "parameters": row.parameters} for row in rows]
        told = {"model": self.model or "shipped", "parts": table, "parameters": total(rows)}
        if self.frames:
            told |= {"flops": dict(flops), "bytes": dict(used)}
        reading.show(self.json, told, [
            *(f"{row.name:27s}{row.parameters:>16,d}  {row.form}".rstrip() for row in rows),
            f"{'total':27s}{total(rows):>16,d}  {2 * total(rows) / 2**30:.2f} GiB in bfloat16",
            *(f"{part:60s}{count / 1e9:14,.1f} GFLOP" for part, count in flops),
            *(f"{purpose:60s}{count / 1e9:14.2f} GB" for purpose, count in used),
        ])  # fmt: skip


@dataclass(frozen=True)
class Import(Verb):
    """Make a model from published checkpoints: files, folders or hub ids."""

    EFFECTS = (
        Effect(("every_key",), "--json lists every key anyway", lambda o: not o.json),
        Effect(("geometry_weights",), "it needs --geometry", lambda o: o.geometry is not None),
    )

    preset: Literal["cascade", "reconstruction", "paper", "compact", "tiny"]
    """cascade: VGGT and LLaVA-3D unchanged; reconstruction: its geometry without a language model; paper, compact,
    tiny: a Vid-LLM initialised from published weights"""
    output: Annotated[Output, arg(metavar="M")]  # folder of the model; created if missing
    vggt: Place = None  # VGGT-1B: encoder and geometry
    geometry: Annotated[str | None, read_by(str, "NAME"), NO_HINT] = None
    """cascade, reconstruction: a geometry network instead of VGGT: pi3x, map-anything, ... (docs/geometry_models.md)"""
    geometry_weights: Place = None  # weights of --geometry (default: the published ones, from the hub)
    llava_3d: Place = None  # LLaVA-3D-7B: language model, projector, position embedding
    dinov2: Place = None  # DINOv2 with registers, instead of VGGT's encoder
    lm: Place = None  # any causal language model of the hub, instead of LLaVA-3D's
    clip: Place = None  # cascade: CLIP-L/14-336, if LLaVA-3D's folder does not contain it
    metric: Place = None
    """cascade: a vidllm model whose metric depth gives the scale"""
    metric_depth: Place = None
    """cascade, reconstruction: a metric depth estimator that gives the scale (Depth Anything 3 or 2 metric, MoGe-2,
    Depth Pro, ZoeDepth, GLPN)"""
    camera_height: Metres = None
    """cascade, reconstruction: height of the camera above the floor in metres, if a video has no other known scale"""
    shorter_side: Whole = None  # shorter side of the frames in pixels (default: the preset's)
    accept_licence: Flag = False  # accept the licence of weights that require it
    weights_dtype: Annotated[str | None, one_of("float32", "bfloat16", "float16"), NO_HINT] = None
    """dtype of the written weights (default: as in the checkpoints)"""
    every_key: Flag = False  # list every key in the report
    dry_run: Flag = False  # check the headers of the checkpoints and print the size, without writing anything
    json: Flag = False  # JSON on standard output

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shorter_side is not None and self.shorter_side < 14:
            raise ValueError(f"--shorter-side: expected at least 14 pixels, received {self.shorter_side}")
        if self.camera_height is not None and not self.camera_height > 0:
            raise ValueError(f"--camera-height: expected a positive number of metres, received {self.camera_height}")

    def run(self) -> None:
        import torch

        from vidllm.pretrained import Ingredients, import_model, plan_import

        folder = Path(self.output) if self.dry_run else reading.writable_folder(self.output)
        given = Ingredients(
            vggt=self.vggt, llava_3d=self.llava_3d, dinov2=self.dinov2, lm=self.lm, clip=self.clip,
            metric=self.metric, metric_depth=self.metric_depth, geometry=self.geometry,
            geometry_weights=self.geometry_weights, accept_licence=self.accept_licence,
            camera_height_m=self.camera_height, shorter_side=self.shorter_side,
        )  # fmt: skip
        dtype = None if self.weights_dtype is None else getattr(torch, self.weights_dtype)
        if self.dry_run:
            report, most = plan_import(self.preset, given, dtype)
            reading.check_room(folder, most, "weights at most")
        else:
            report = import_model(self.preset, given, folder, dtype)
        wrote = [] if self.dry_run else [f"wrote     {folder}"]
        reading.show(self.json, {"model": str(folder), **report.as_dict()}, [*report.lines(self.every_key), *wrote])
        for line in report.licence_lines() if self.json else ():
            reading.note(line)
