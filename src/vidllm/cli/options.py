"""Options from dataclasses: a field is an option, an error is one line.

A field's docstring is its help. The verbs of the command line are subclasses of :class:`Verb`, in which nested
dataclasses have flat names; the configurations of training are parsed in the same way. The groups of options that
several verbs share are here as well.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import MISSING, dataclass, fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, arg
from tyro.constructors import PrimitiveConstructorSpec

from vidllm.cli import reading
from vidllm.model.config_fields import flat

if TYPE_CHECKING:
    from vidllm.io.cameras.given import GivenCameras
    from vidllm.model.priors import KnownScale
    from vidllm.scene import VidLLM

C = TypeVar("C")


# ---- values ------------------------------------------------------------------------------------------------------


def read_by(
    read: Callable[[str], Any], metavar: str, choices: tuple[str, ...] | None = None
) -> PrimitiveConstructorSpec[Any]:
    """The annotation of an option whose value is read by ``read``; its errors are reported with the option's name."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda _: True,
        str_from_instance=lambda value: ["none" if value is None else reading.as_word(value)],
        choices=choices,
    )


def one_of(*choices: str) -> PrimitiveConstructorSpec[Any]:
    """The annotation of an optional choice among these words."""
    return read_by(str, f"{{{','.join(choices)}}}", choices)


def about(group: type) -> Any:
    """The annotation of a group of options: its docstring, for which tyro would parse the whole module's source."""
    return arg(help=group.__doc__)


NO_HINT = arg(help_behavior_hint="")  # do not show "(default: None)" or "(default: False)"
Flag = Annotated[bool, NO_HINT]
Text = Annotated[str | None, read_by(str, "TEXT"), NO_HINT]
Place = Annotated[str | None, read_by(str, "PLACE"), NO_HINT]
File = Annotated[str | None, read_by(str, "FILE"), NO_HINT]
Words = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, arg(metavar="A,B,...")]
Whole = Annotated[int | None, read_by(reading.whole, "N"), NO_HINT]
Metres = Annotated[float | None, read_by(reading.number, "M"), NO_HINT]
Frames = Annotated[int | None, read_by(reading.frames, "N"), NO_HINT]
Count = Annotated[int, read_by(reading.frames, "N")]
Seeds = Annotated[range, read_by(reading.seeds, "A:B")]
Size = Annotated[tuple[int, int], read_by(reading.size, "HxW")]
Output = Annotated[str, arg(aliases=("-o",), metavar="OUT")]
MaybeOutput = Annotated[str | None, read_by(str, "OUT"), arg(aliases=("-o",), help_behavior_hint="")]


# ---- parsing -----------------------------------------------------------------------------------------------------


def parse(kind: type[C], prog: str, argv: list[str]) -> C:
    """An instance of a dataclass from its options; ValueError for a wrong one."""
    markers = (OmitArgPrefixes, FlagCreatePairsOff) if issubclass(kind, Verb) else ()
    drawn = io.StringIO()
    try:
        with redirect_stderr(drawn):
            return tyro.cli(kind, args=argv, prog=prog, config=markers)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_one_line(stop, drawn.getvalue(), prog)) from None


def _one_line(stop: SystemExit, drawn: str, prog: str) -> str:
    """The message of the ValueError that a value or a check raised, else the one in the frame that tyro prints.

    tyro exits while it handles that error, so the error is the context of SystemExit.
    """
    words: list[str] = []
    for line in drawn.splitlines()[1:]:
        if line.strip("│╭╮╰╯─- "):
            words += line.strip("│ ").split()
        elif words:
            break
    text = " ".join(words).rstrip(".") or "wrong options"
    if not text.startswith("Error parsing "):
        return f"{text}; see {prog} --help"
    option, _, reason = text.removeprefix("Error parsing ").partition(": ")
    error = stop.__context__
    while error is not None and not isinstance(error, ValueError):
        error = error.__context__
    reason = reason if error is None else str(error)
    return f"{option.split('/')[-1]}: {reason}; see {prog} --help" if option.startswith("-") else reason


# ---- options without an effect -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """Options (by field), the mode in which they have an effect, and its description."""

    options: tuple[str, ...]
    where: str
    applies: Callable[[Any], bool]


def idle(
    effects: tuple[Effect, ...], config: Any, usual: dict[str, Any], **known: Any
) -> Iterator[tuple[list[str], Effect]]:
    """Options that differ from their default (``usual``) and have no effect, each once.

    ``known``: values that the predicates need in addition to the configuration.
    """
    values, told = by_name(config), set[str]()
    mode = SimpleNamespace(**values, **known)
    for effect in effects:
        if not effect.applies(mode):
            names = [n for n in effect.options if n not in told and values[n] != usual[n]]
            told.update(names)
            if names:
                yield [spelled(name) for name in names], effect


def by_name(config: Any) -> dict[str, Any]:
    """The values of a configuration's options, and its parts themselves."""
    return flat(config) | vars(config)


def spelled(name: str) -> str:
    """A field's name as an option."""
    return f"--{name.replace('_', '-')}"


# ---- verbs and the options that they share -----------------------------------------------------------------------


@dataclass(frozen=True)
class Verb:
    """A command with its options. ValueError at once for an option without an effect (``EFFECTS``)."""

    EFFECTS: ClassVar[tuple[Effect, ...]] = ()

    def __post_init__(self) -> None:
        for names, effect in idle(self.EFFECTS, self, defaults(type(self))):
            raise ValueError(f"{', '.join(names)}: no effect here; {effect.where}")

    def run(self) -> None:
        """Run the command: results on standard output, progress and warnings on standard error."""
        raise NotImplementedError


def defaults(kind: Any) -> dict[str, Any]:
    """The defaults of a command's options, by name."""
    return by_name(SimpleNamespace(**{
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(kind)
    }))  # fmt: skip


@dataclass(frozen=True)
class ComputeOptions:
    """The model, its device and its precision."""

    model: Place = None  # folder or hub id of a model (default: the shipped model)
    vlm: Place = None  # folder or hub id of a vision-language model that gives the answers: docs/vision_language.md
    refine: Flag = False
    """refine cameras and depth by bundle adjustment: docs/refinement.md (default: reconstruct, serve and mcp do, the
    others as the model's config.json says)"""
    no_refine: Flag = False  # do not refine
    device: str = "cpu"  # cpu, cuda or cuda:1
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 where the hardware supports it, else float32"""

    def __post_init__(self) -> None:
        if self.refine and self.no_refine:
            raise ValueError("--refine and --no-refine: give one of the two")

    @property
    def refined(self) -> bool | None:
        """None: as the model has it."""
        return True if self.refine else False if self.no_refine else None

    def load(self, device: str | None = None) -> VidLLM:
        """The model."""
        from vidllm.scene import load

        where = self.device if device is None else device
        return load(self.model, where, self.dtype, refine=self.refined, vlm=self.vlm)


@dataclass(frozen=True)
class MemoryOptions:
    """Reduce the memory of the language model."""

    language_dtype: Annotated[str | None, one_of("int8", "int4"), NO_HINT] = None
    """quantise the weights of the language model"""
    offload: Annotated[str | None, one_of("cpu"), NO_HINT] = None  # keep the language model's layers in host memory


@dataclass(frozen=True)
class KnownScaleOptions:
    """A known scale, used instead of the predicted one (at most one of these)."""

    scale: Annotated[float | None, read_by(reading.number, "X"), NO_HINT] = None
    """metres per unit of the reconstruction"""
    camera_height: Metres = None  # height of the camera above the floor in metres
    known_length: Annotated[str | None, read_by(str, "FRAME:U,V:U,V=M"), NO_HINT] = None
    """two pixels of a sampled frame (original size) that are M metres apart"""

    def known(self) -> KnownScale | None:
        """None without any, ValueError with several or wrong ones."""
        from vidllm.model.priors import KnownScale

        if self.scale is None and self.camera_height is None and self.known_length is None:
            return None
        length = None if self.known_length is None else reading.known_length(self.known_length)
        return KnownScale(self.scale, self.camera_height, length)


@dataclass(frozen=True)
class KnownCameraOptions:
    """Known intrinsics, poses and depth, used instead of the predicted ones (docs/known_cameras.md)."""

    intrinsics: Annotated[str | None, read_by(str, "FILE|fx,fy,cx,cy"), NO_HINT] = None
    """in pixels of the original pictures (image centre at W/2, H/2), or a file: cameras.json, transforms.json, matrix
    (.txt, .npy), OpenCV .yaml, .csv, COLMAP model"""
    poses: File = None
    """cameras.json, transforms.json, TUM trajectory, .csv, .npy, COLMAP model, or a folder of matrices (ScanNet,
    7-Scenes)"""
    poses_scale: Annotated[str | None, one_of("metric", "unknown"), NO_HINT] = None
    """unit of the poses (default: metric)"""
    one_lens: Flag = False
    """the whole video has one lens with square pixels (default: where --refine adjusts the focal length)"""
    no_one_lens: Flag = False  # the focal length or the pixel aspect ratio varies
    depth: Annotated[str | None, read_by(str, "FOLDER"), NO_HINT] = None
    """known depth maps, one per frame by name or number: 16-bit PNG in millimetres, .npy or .exr in metres"""

    def __post_init__(self) -> None:
        if self.one_lens and self.no_one_lens:
            raise ValueError("--one-lens and --no-one-lens: give one of the two")
        if self.poses_scale is not None and self.poses is None:
            raise ValueError("--poses-scale gives the unit of the poses; it needs --poses")
        if (self.one_lens or self.no_one_lens) and self.intrinsics is not None:
            raise ValueError("--one-lens has no effect with --intrinsics; give only one of them")

    def known(self) -> GivenCameras | None:
        """None without any, ValueError for wrong ones."""
        lens = True if self.one_lens else False if self.no_one_lens else None
        if self.intrinsics is None and self.poses is None and lens is None and self.depth is None:
            return None
        from vidllm.io.cameras.given import read_cameras

        metric = None if self.poses_scale is None else self.poses_scale == "metric"
        return read_cameras(self.intrinsics, self.poses, metric, lens, self.depth)


@dataclass(frozen=True)
class WindowOptions:
    """Long videos are processed in overlapping windows of frames, with bounded memory (docs/long_video.md)."""

    window: Whole = None  # frames per window (default: for more than 64 frames, the number the model was trained with)
    overlap: Whole = None  # frames shared by neighbouring windows (default: a quarter of the window)
