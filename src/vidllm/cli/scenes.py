"""The commands that read a video: ask, describe, ground, inventory, measure, reconstruct, demo."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, UseAppendAction, arg

from vidllm.answers import with_notes
from vidllm.cli import reading
from vidllm.cli.options import (
    NO_HINT,
    ComputeOptions,
    Effect,
    Flag,
    Frames,
    KnownCameraOptions,
    KnownScaleOptions,
    MaybeOutput,
    MemoryOptions,
    Output,
    Place,
    Text,
    Verb,
    WindowOptions,
    Words,
    about,
    read_by,
    spelled,
)
from vidllm.model.prompts import check_question

if TYPE_CHECKING:
    from vidllm.scene import Box, Scene, VidLLM

FORMATS = ("depth", "cameras", "tum", "ply", "overview", "glb", "colmap", "nerfstudio", "html",
           "boxes", "npz", "mp4", "rrd", "mesh", "scene")  # fmt: skip
LISTING = ("html", "boxes", "mp4", "rrd")  # formats that show the inventory if no expression is given
IN_SCENE = {"frame": "scene", "units": "m"}


def read_formats(text: str) -> tuple[str, ...]:
    """Comma-separated export formats, each once."""
    names = reading.words([text])
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise ValueError(f"unknown format {', '.join(unknown) or repr(text)}; choose from {', '.join(FORMATS)}")
    return names


@dataclass(frozen=True)
class WithModel(Verb):
    """A command that runs a model."""

    REFINES: ClassVar[bool] = False  # whether the command refines by default

    json: Flag = field(default=False, kw_only=True)  # JSON on standard output
    compute: Annotated[ComputeOptions, about(ComputeOptions)] = field(default_factory=ComputeOptions, kw_only=True)
    memory: Annotated[MemoryOptions, about(MemoryOptions)] = field(default_factory=MemoryOptions, kw_only=True)

    def model(self, default: Path | None = None) -> VidLLM:
        """The model of ``--model``, else ``default``, else the shipped one."""
        from vidllm.scene import load

        where, memory = self.compute, self.memory
        refine = True if self.REFINES and where.refined is None else where.refined
        place = default if where.model is None else where.model
        return load(place, where.device, where.dtype, memory.language_dtype, memory.offload, refine,
                    where.vlm)  # fmt: skip


@dataclass(frozen=True)
class OfVideo(WithModel):
    """A command that reconstructs a video, or reads a saved scene."""

    video: Annotated[Positional[str], arg(metavar="VIDEO")]  # a video file, a folder of pictures, or a saved scene
    frames: Frames = field(default=None, kw_only=True)
    """frames to sample evenly (default: as many as neighbouring frames need to overlap)"""
    known_scale: Annotated[KnownScaleOptions, about(KnownScaleOptions)] = field(
        default_factory=KnownScaleOptions, kw_only=True
    )
    known_cameras: Annotated[KnownCameraOptions, about(KnownCameraOptions)] = field(
        default_factory=KnownCameraOptions, kw_only=True
    )
    windows: Annotated[WindowOptions, about(WindowOptions)] = field(default_factory=WindowOptions, kw_only=True)

    def scene(self) -> Scene:
        """The scene; a missing video is reported before a model is loaded."""
        from vidllm.io.files import check_source

        check_source(self.video)
        if Path(self.video).expanduser().is_dir():
            from vidllm.scene_file import is_saved_scene

            if is_saved_scene(self.video):
                return self._saved()
        reading.begin("loading the model")
        with reading.first_imports():
            known, cameras = self.known_scale.known(), self.known_cameras.known()
            model = self.model()
        reading.begin(f"reconstructing {self.video}")
        line = reading.Progress("frames", self.frames or 0)
        window, overlap = self.windows.window, self.windows.overlap
        return model.reconstruct(self.video, self.frames, known, window, overlap, line, cameras)

    def _saved(self) -> Scene:
        """A saved scene; ValueError for options of a reconstruction."""
        from vidllm.scene import restored
        from vidllm.scene_file import SceneFile

        given = {"frames": self.frames, "refine": self.compute.refine or self.compute.no_refine}
        for group in (self.known_scale, self.known_cameras, self.windows):
            given |= {f.name: getattr(group, f.name) for f in fields(group)}
        idle = [spelled(name) for name, value in given.items() if value not in (None, False)]
        if idle:
            raise ValueError(f"{self.video} is a saved scene, on which {', '.join(idle)} has no effect; "
                             "give the video to reconstruct it again")  # fmt: skip
        saved = SceneFile.read(self.video)
        return restored(saved, self.model(saved.place() if self.compute.model is None else None))


@dataclass(frozen=True)
class OfThings(OfVideo):
    """A command that finds objects in a video."""

    detector: Place = field(default=None, kw_only=True)
    """folder or hub id of a zero-shot detector that finds the objects instead of the model: docs/detectors.md"""
    detector_threshold: Annotated[float | None, read_by(reading.number, "X"), NO_HINT] = field(
        default=None, kw_only=True
    )
    """keep detections with a score above this (default: depends on the detector)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.detector is None and self.detector_threshold is not None:
            raise ValueError("--detector-threshold is the minimum score of a detector; it needs --detector")

    def scene(self) -> Scene:
        """As :meth:`OfVideo.scene`; errors of the detector are reported first."""
        if self.detector is None:
            return super().scene()
        from vidllm.detection.detectors import load_detector

        detector, pictures = load_detector(self.detector, self.compute.device, self.detector_threshold), count(1)
        line = reading.Progress("pictures searched")

        def detect(picture: Any, names: Sequence[str]) -> Sequence[Any]:
            found = detector(picture, names)
            line(next(pictures))
            return found

        scene = super().scene()
        scene.detector = detect
        return scene


@dataclass(frozen=True)
class Ask(OfVideo):
    """Answer questions about a video, one answer per line."""

    questions: Annotated[Positional[tuple[str, ...]], arg(metavar="QUESTION...", help_behavior_hint="(required)")]
    """one or several; the video is encoded once"""
    situation: Text = None
    """your position and viewing direction, e.g. 'I am sitting on the sofa.'"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.questions:
            raise ValueError("a question is missing; see vidllm ask --help")
        for question in self.questions:
            check_question(question)
        if self.situation is not None:
            check_question(self.situation, what="situation")

    def run(self) -> None:
        scene = self.scene()
        told = {} if self.situation is None else {"situation": self.situation}
        answers = [scene.ask(question, self.situation) for question in self.questions]
        warnings = list(scene.scale.warnings)
        said = [{"question": q, **told, "answer": a, "notes": list(a.notes), "warnings": warnings, **IN_SCENE}
                for q, a in zip(self.questions, answers, strict=True)]  # fmt: skip
        lines = [with_notes(answer, answer.notes) for answer in answers]
        reading.show(self.json, said if len(said) > 1 else said[0], lines)


@dataclass(frozen=True)
class Describe(OfVideo):
    """Describe the room, or the object at a point."""

    at: Annotated[tuple[float, float, float] | None, read_by(reading.point, "X,Y,Z"), NO_HINT] = None
    """a point of the scene frame in metres"""

    def run(self) -> None:
        scene = self.scene()
        text = scene.describe(self.at)
        told = {"at": self.at, "description": text, "warnings": list(scene.scale.warnings), **IN_SCENE}
        reading.show(self.json, told, [text])


@dataclass(frozen=True)
class Ground(OfThings):
    """Find the objects that an expression refers to: boxes in metres."""

    expression: Annotated[Positional[str], arg(metavar="EXPRESSION")]  # e.g. 'the chair right of the sofa'
    output: Annotated[MaybeOutput, arg(metavar="PICTURE")] = None  # write a picture of the frames with the boxes

    def __post_init__(self) -> None:
        super().__post_init__()
        check_question(self.expression, what="expression")

    def run(self) -> None:
        from vidllm.export.pictures import check_picture_name, write_frames_picture

        if self.output:
            check_picture_name(reading.writable(self.output))
        scene = self.scene()
        note_warnings(scene)
        boxes = scene.ground(self.expression)
        if self.output:
            named = [{**box.as_dict(), "label": self.expression} for box in boxes]
            write_frames_picture(self.output, scene.data, named)
        told = {"expression": self.expression, "boxes": [box.as_dict() for box in boxes], "notes": list(boxes.notes),
                "warnings": list(scene.scale.warnings), **IN_SCENE}  # fmt: skip
        text = "\n".join(box_lines(boxes)) or f"no such object: {self.expression}"
        reading.show(self.json, told, [with_notes(text, boxes.notes)])


@dataclass(frozen=True)
class TakeInventory(OfThings):
    """List all objects of the room with colours and boxes in metres, counts, the floor and the camera path."""

    EFFECTS: ClassVar[tuple[Effect, ...]] = (Effect(("vlm",), "the model itself takes the inventory", lambda o: False),)

    names: Words = ()  # look for these instead of the 45 usual names of furniture and objects
    distances: Flag = False  # also print the distances between all pairs

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in reading.words(self.names):
            check_question(name, what="name")

    def run(self) -> None:
        from vidllm.inventory import NAMES

        scene = self.scene()
        note_warnings(scene)
        found = scene.inventory(reading.words(self.names) or NAMES)
        both = found.as_dict(self.distances and self.json), [found.as_text(self.distances and not self.json)]
        reading.show(self.json, *both)


@dataclass(frozen=True)
class Measure(OfThings):
    """Measure one or two objects or points in metres: sizes, heights above the floor, the distance between them."""

    what: Annotated[Positional[tuple[str, ...]], arg(metavar="WHAT...", help_behavior_hint="(required)")]
    """one or two expressions, or pixels FRAME:U,V of a sampled frame (original size)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.what) not in (1, 2):
            raise ValueError(f"expected one or two objects or pixels to measure, received {len(self.what)}; "
                             "see vidllm measure --help")  # fmt: skip
        for what in self.what:
            check_question(what, what="expression")

    def run(self) -> None:
        from vidllm.inventory import pixel

        scene = self.scene()
        note_warnings(scene)
        found = scene.measure(*[pixel(what) or what for what in self.what])
        reading.show(self.json, found.as_dict(), [found.as_text()])


@dataclass(frozen=True)
class Reconstruct(OfThings):
    """Write cameras, depth and points in metres."""

    output: Output  # folder; created if missing
    format: Annotated[tuple[str, ...], read_by(read_formats, "A,B,...")] = FORMATS[:5]
    """depth, cameras, tum, ply, overview, glb, colmap, nerfstudio, html, boxes, npz, mp4, rrd, mesh (docs/exports.md);
    scene: a saved scene, which can be used instead of the video (docs/saved_scenes.md)"""
    ground: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="EXPRESSION")] = ()
    """also find these objects and export their boxes (default: html, boxes, mp4 and rrd show the inventory)"""
    ask: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="QUESTION")] = ()
    """also answer this question; the page (html) shows it"""
    registration: Literal["learned", "sfm", "auto"] = "auto"
    """source of the cameras: learned: the model; sfm: feature matching (pip install 'vidllm[sfm]'); auto: feature
    matching if the frames do not agree after refinement and pycolmap is installed"""
    REFINES: ClassVar[bool] = True
    EFFECTS: ClassVar[tuple[Effect, ...]] = (
        Effect(("vlm",), "it answers --ask and --ground", lambda mode: bool(mode.ask or mode.ground)),
        Effect(("detector",), f"it finds what --ground or the formats {', '.join(LISTING)} show",
               lambda mode: bool(mode.ground or set(mode.format) & set(LISTING))),
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.registration == "sfm" and self.knows:
            raise ValueError("--registration sfm replaces cameras and scale; leave it out if these are given")
        for expression in self.ground:
            check_question(expression, what="expression")
        for question in self.ask:
            check_question(question)

    def run(self) -> None:
        folder = reading.writable_folder(self.output)
        scene = self.registered()
        note_warnings(scene)
        found = [(e, scene.ground(e)) for e in self.ground]
        shown = [(expression, box) for expression, boxes in found for box in boxes]
        if not self.ground and set(self.format) & set(LISTING):
            shown = [(thing.called, thing.box) for thing in scene.inventory().things]
        said = [(question, scene.ask(question)) for question in self.ask]
        files = scene.save(folder, self.format, [box for _, box in shown], [label for label, _ in shown], said)
        summary = {"video": self.video, **scene.summary(), "files": [str(f) for f in files]}
        if self.ground:
            summary["ground"] = [{"expression": e, "boxes": [b.as_dict() for b in boxes]} for e, boxes in found]
        if self.ask:
            summary["ask"] = [{"question": question, "answer": answer} for question, answer in said]
        reading.show(self.json, summary, _summary_lines(summary, found))

    @property
    def knows(self) -> bool:
        """Whether cameras or scale are given, which registration by features would replace."""
        given = [*vars(self.known_scale).values(), *vars(self.known_cameras).values()]
        return any(value not in (None, False) for value in given)

    def registered(self) -> Scene:
        """The scene, with cameras registered by features if ``--registration`` asks for it."""
        from vidllm.feature_registration import INSTALL, is_installed, registered
        from vidllm.io.captures import open_capture
        from vidllm.scene_file import is_saved_scene

        saved = is_saved_scene(self.video)
        knows = self.knows or (not saved and open_capture(self.video) is not None)
        if self.registration == "sfm":
            if knows:
                raise ValueError(f"{self.video} is a recording with known cameras, which --registration sfm would "
                                 "replace; leave it out, or give the pictures alone")  # fmt: skip
            if saved:
                raise ValueError(f"{self.video} is a saved scene, on which --registration has no effect; "
                                 "give the video to reconstruct it again")  # fmt: skip
            if not is_installed():
                raise ValueError(INSTALL)
        scene = self.scene()
        if self.registration == "learned" or saved or knows:
            return scene
        if self.registration == "auto" and scene.frames_agree is not False:
            return scene
        if not is_installed():
            reading.note(f"vidllm: warning: {INSTALL}")
            return scene
        found = registered(scene, self.video)
        if found is None:
            reading.note("vidllm: warning: fewer than half of the frames could be registered by features; "
                         "the learned cameras are kept")  # fmt: skip
            return scene
        reading.note(f"vidllm: cameras registered by features (pycolmap): {len(found)} of {len(scene)} frames")
        return found


@dataclass(frozen=True)
class Demo(WithModel):
    """Run the bundled clip, print the errors against its ground truth, and open a 3D page in the browser."""

    output: MaybeOutput = None  # write the page and the reconstruction to this folder

    def run(self) -> None:
        import webbrowser
        from tempfile import mkdtemp

        from vidllm.evaluation import demo as bundled
        from vidllm.reconstruction import DEFAULT_FORMATS

        folder = None if self.output is None else reading.writable_folder(self.output)
        reading.begin("reconstructing the bundled clip")
        truth = bundled.load_truth()
        scene = self.model().reconstruct(bundled.CLIP, len(truth.depth_m))
        report = bundled.report(scene, truth)
        shows = sys.stdout.isatty() and not self.json
        if folder is not None or shows:
            formats = () if folder is None else DEFAULT_FORMATS
            files = bundled.write_page(scene, report, folder or Path(mkdtemp("-vidllm")) / "demo", formats)
            report["files"] = [str(file) for file in files]
        wrote = (f"  wrote {file}" for file in report.get("files", ()))
        reading.show(self.json, report, [*bundled.lines(report), *wrote])
        if shows and reading.has_desktop():
            webbrowser.open(files[0].absolute().as_uri())


def box_lines(boxes: Sequence[Box]) -> list[str]:
    """One line per box: centre, size, yaw, score and, where known, the 90% bounds of its errors."""
    lines = []
    for number, b in enumerate(boxes, 1):
        lines.append(f"{number}  centre {_numbers(b.center)} m  size {_numbers(b.size)} m  "
                     f"yaw {math.degrees(b.yaw):.0f} deg  score {b.score:.2f}")  # fmt: skip
        if b.center_error is not None and b.size_error is not None:
            lines[-1] += f"  90% within {b.center_error:.2f} m, sides within {100 * b.size_error:.0f}%"
    return lines


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.2f}" for v in values) + ")"


def _summary_lines(summary: dict[str, Any], found: Sequence[tuple[str, Sequence[Box]]]) -> list[str]:
    height, width = summary["processed_size"]
    spread = summary["scale_spread"]
    agree = "spread over the images " + ("unknown" if math.isnan(spread) else f"{100 * spread:.0f}%")
    interval = summary["scale_interval"]
    between = "" if interval is None else f", 90% between {interval[0]:.3f} and {interval[1]:.3f}"
    std = "" if math.isnan(summary["depth_std"]) else f", standard deviation {summary['depth_std']:.2f} m"
    lines = [
        f"frames        {summary['frames']} at {width}x{height} pixels",
        f"scale         {summary['scale']:.3f} m per unit{between}, {agree}",
        f"median depth  {summary['median_depth']:.2f} m{std} ({summary['uncertainty']})",
        f"camera path   {summary['camera_path_length']:.2f} m, {summary['registration']} cameras",
    ]
    for expression, boxes in found:
        lines += [f"found         {expression}: {line}" for line in box_lines(boxes) or ["no such object"]]
    lines += [f"answer        {item['question']} {item['answer']}" for item in summary.get("ask", ())]
    return lines + [f"wrote         {file}" for file in summary["files"]]


def note_warnings(scene: Scene) -> None:
    """Print the warnings of the scale on standard error."""
    for warning in scene.scale.warnings:
        reading.note(f"vidllm: warning: {warning}")
