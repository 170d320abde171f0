"""A reconstructed video: its geometry in metres, its answers and boxes, its files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from vidllm.answers import Answer, Box, Boxes, Scale, three_numbers
from vidllm.detection.fusion import Detect, find
from vidllm.export.geometry import SceneData
from vidllm.geometry.cameras import to_homogeneous
from vidllm.geometry.picture_motion import BLANK, FAINT, PictureMotion, contrasts
from vidllm.inventory import NAMES, Inventory, Measurement, measure, take
from vidllm.io.frames import Frames
from vidllm.io.video import original_pictures
from vidllm.model import prompts
from vidllm.model.calibration import Calibration
from vidllm.model.generation import CachedPrefix, heard_by
from vidllm.model.grounding import decode_boxes, decode_choice
from vidllm.model.modeling import Network
from vidllm.model.outputs import Geometry, VisualPrefix
from vidllm.model.processing import Processor
from vidllm.model.scale_alignment import spread_of_views
from vidllm.model.text import encode_answer
from vidllm.model.words import Vocabulary, unknown_words
from vidllm.scene_in_words import SceneInWords, told_in_words

UNSEEN_M = 1.0  # from a point to the nearest patch beyond which nothing was seen there
MIN_PARALLAX = 0.02  # camera travel over median depth below which scale and points are called degenerate

DEFAULT_FORMATS = ("depth", "cameras", "tum", "ply", "overview", "scene")


class Scene:
    """A reconstructed video. Lengths are metres, and the world frame is the first camera's.

    Boxes and points are in the scene frame: level, z up, origin at the first camera, x along its horizontal view.

    Several threads may use one scene; their questions are answered one after another. A question that fails or is
    interrupted does not affect later ones. ``detector`` finds objects instead of the model (``vidllm.load_detector``).
    """

    detector: Detect | None = None
    _inventory: tuple[Any, Inventory] | None = None  # the last one, with what it is of

    def __init__(
        self, model: Network, processor: Processor, frames: Frames, geometry: Geometry, prefix: VisualPrefix
    ) -> None:
        self._model, self._processor = model, processor
        self._frames, self._geometry, self._prefix = frames, geometry, prefix

    def __len__(self) -> int:
        return self._geometry.extrinsics.shape[1]

    def __getstate__(self) -> NoReturn:
        """TypeError: see :meth:`save`."""
        raise TypeError("a scene holds a whole model and is not pickled; keep it with scene.save(folder) and "
                        "vidllm.load_scene(folder)")  # fmt: skip

    def replaced(self, frames: Frames, geometry: Geometry) -> Scene:
        """A scene of the same model with other frames and geometry."""
        scene = scene_with(self._model, self._processor, frames, geometry)
        scene.detector = self.detector
        return scene

    # ---- geometry ---------------------------------------------------------------------------------------------

    @property
    def frames(self) -> Frames:
        """The processed frames, with the affine map from original pixels."""
        return self._frames

    @property
    def geometry(self) -> Geometry:
        """The reconstruction as the model returns it (a batch of one)."""
        return self._geometry

    @property
    def depth(self) -> Tensor:
        """Depth along the optical axis (F,H,W), metres, at the processed resolution."""
        return self.geometry.depth_m[0].float().cpu()

    @property
    def bins_std(self) -> Tensor | None:
        """Standard deviation of depth over the bins of the metric depth model (F,H,W), metres, not calibrated."""
        log_std = self._log_std
        return None if log_std is None else self.depth * log_std

    @property
    def depth_std(self) -> Tensor | None:
        """Standard deviation of depth (F,H,W), metres; 90% of the errors in unseen rooms are below 1.645 times this.

        Not calibrated if ``calibration`` is None. None if the model has no metric depth model.
        """
        factor, std = 1.0 if self.calibration is None else self.calibration.depth, self.bins_std
        return None if std is None else std * factor

    @property
    def _log_std(self) -> Tensor | None:
        log_std = self.geometry.log_std
        return None if log_std is None else log_std[0].float().cpu()

    @cached_property
    def calibration(self) -> Calibration | None:
        """Factors that turn the model's uncertainties into intervals; None if it is not calibrated."""
        return Calibration.read(self._model.name_or_path) if self._model.name_or_path else None

    @property
    def extrinsics(self) -> Tensor:
        """Camera-from-world (F,4,4), metres; the first is the identity."""
        return to_homogeneous(self._geometry.extrinsics[0].float().cpu())

    @property
    def intrinsics(self) -> Tensor:
        """K (F,3,3) in pixels of the processed frames, pixel centres at +0.5."""
        return self._geometry.intrinsics[0].float().cpu()

    @property
    def scene_from_world(self) -> Tensor:
        """Transform (4,4) from the world (first camera's) frame to the scene frame."""
        return self._geometry.scene_from_world[0].float().cpu()

    @property
    def points(self) -> Tensor:
        """Points (N,3) in the scene frame, metres (colours: ``scene.data.points()[1]``)."""
        return torch.from_numpy(self.data.points()[0])

    @cached_property
    def scale(self) -> Scale:
        """Metric scale with its spread and warnings (camera hardly moves, images disagree)."""
        found = self._geometry.scale
        spread = spread_of_views(self._votes(), torch.tensor(self._views), float(found.spread[0]))
        still = max(self._views, default=0) == 0
        doubts = []
        if not bool(found.valid[0]):
            doubts.append("no pixel could be used for the metric scale: lengths are not in metres")
        elif spread > self._model.config.scale.warn_spread:
            doubts.append(f"the images disagree about the metric scale by {100 * spread:.0f}%")
        elif math.isnan(spread) and bool(found.per_image.isfinite().any()):
            doubts.append("a single view tells the metric scale: how far images agree about it is not known")
        if still or self._parallax() < MIN_PARALLAX:
            doubts.append("the camera hardly moves: depth and scale rest on single images")
        pictures = self._contrasts
        blank = int((pictures < BLANK).sum())
        if blank:
            doubts.append(f"{blank} of {len(pictures)} pictures are of one colour: nothing is to be seen in them")
        elif bool(pictures.median() < FAINT):
            doubts.append("the pictures have hardly any contrast: what is said of them is doubtful")
        value, interval = float(found.scale[0]), None
        if self.calibration is not None and spread > 0:  # 0: known depth, which is taken as it is; nan: not known
            factor = self.calibration.scale_factor(spread)
            interval = value / factor, value * factor
        return Scale(value, spread, (*doubts, *self._doubts()), interval)

    def _votes(self) -> Tensor:
        """Each image's factor over the scale (F,), nan where it has none."""
        return (self._geometry.scale.per_image[0] / self._geometry.scale.scale[0]).float().cpu()

    @cached_property
    def _views(self) -> list[int]:
        """Which view each frame shows (:class:`PictureMotion`)."""
        motion = PictureMotion()
        motion.add(self._frames.images)
        return motion.views

    @property
    def frames_agree(self) -> bool | None:
        """Whether the frames agree after refinement, in every window (docs/refinement.md); None: not refined."""
        told = self._agreements()
        return all(told) if told else None

    @property
    def registration(self) -> str:
        """Source of the cameras: "learned", "known", or "sfm" (:mod:`vidllm.feature_registration`)."""
        return self._geometry.registration

    @property
    def loops(self) -> int:
        """Number of closed loops of a long video (docs/long_video.md)."""
        return 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings: refined frames that do not agree, and the warnings of the scale."""
        told = self._agreements()
        if all(told):
            return self.scale.warnings
        where = "the frames" if len(told) == 1 else f"in {told.count(False)} of {len(told)} windows the frames"
        known = self.registration == "known"
        doubt = "do the known cameras belong to these pictures?" if known else "cameras and depth are uncertain"
        return f"{where} do not agree after refinement; {doubt}", *self.scale.warnings

    def _agreements(self) -> list[bool]:
        """Of each window, whether its frames agree after refinement; none without."""
        return [] if self._geometry.agrees is None else self._geometry.agrees.tolist()

    @cached_property
    def _contrasts(self) -> Tensor:
        """Of each picture (F,), see :func:`contrasts`."""
        return contrasts(self._frames.images)

    @property
    def _blind(self) -> str:
        """What is said to every question where nothing is to be seen; else nothing."""
        return "I see nothing: the pictures are of one colour." if bool((self._contrasts < BLANK).all()) else ""

    def _doubts(self) -> list[str]:
        """What else makes the reconstruction doubtful."""
        return []

    def _parallax(self) -> float:
        return float(self.extrinsics[:, :3, 3].norm(dim=-1).max()) / max(self._median_depth(), 1e-6)

    def _median_depth(self) -> float:
        return float(self.depth.median())

    def _median_std(self) -> float:
        """Median of ``depth_std``; nan where it is not known."""
        std = self.depth_std
        return math.nan if std is None else float(std.median())

    @cached_property
    def data(self) -> SceneData:
        """The reconstruction as plain arrays, the input of the exporters."""
        rgb, std = (self.frames.images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8), self.depth_std
        maps = {"depth_m": self.depth.numpy(), "depth_std_m": None if std is None else std.numpy(),
                "confidence": self.geometry.confidence[0].float().cpu().numpy()}  # fmt: skip
        return self._as_data(rgb.numpy(), self.frames.timestamps_s, self.frames.names, maps)

    def _as_data(self, rgb: np.ndarray, times_s: Any, names: Sequence[str], maps: dict[str, Any]) -> SceneData:
        source = self._frames
        return SceneData(
            rgb=rgb,
            extrinsics=self.extrinsics.numpy().astype(np.float64),
            intrinsics=self.intrinsics.numpy().astype(np.float64),
            scene_from_world=self.scene_from_world.numpy().astype(np.float64),
            timestamps_s=np.asarray(times_s, dtype=np.float64) + (source.clock_start_s or 0.0),
            processed_from_original=np.asarray(source.affine, dtype=np.float64),
            original_size=source.original_size,
            names=names,
            has_clock=source.clock_start_s is not None,
            originals=self._originals(),
            **maps,
        )

    def _originals(self) -> Callable[[], Iterator[np.ndarray]] | None:
        """Reads the pictures again as they were; None where they did not come from a file that is still there."""
        place = Path(self._frames.source)
        return partial(original_pictures, place, self._numbers()) if place.exists() else None

    def _numbers(self) -> list[int]:
        """Numbers of the frames in the source."""
        return [int(index) for index in self._frames.indices]

    def summary(self) -> dict[str, Any]:
        """The reconstruction in a few numbers, lengths in metres (JSON-ready except that an unknown spread is nan)."""
        centres = torch.linalg.inv(self.extrinsics.double())[:, :3, 3]
        return {
            "frames": len(self), "scale": self.scale.value, "scale_spread": self.scale.spread,
            "scale_interval": None if self.scale.interval is None else list(self.scale.interval),
            "depth_std": self._median_std(),
            "uncertainty": f"calibrated on rooms {self.calibration.seeds}" if self.calibration else "uncalibrated",
            "warnings": list(self.warnings), "frames_agree": self.frames_agree, "registration": self.registration,
            "loops": self.loops, "median_depth": self._median_depth(),
            "camera_path_length": float(centres.diff(dim=0).norm(dim=-1).sum()),
            "processed_size": list(self._frames.images.shape[-2:]), "original_size": list(self._frames.original_size),
            "units": "m", "frame": "scene",
        }  # fmt: skip

    # ---- language ---------------------------------------------------------------------------------------------

    def ask(
        self, question: str, situation: str | None = None, max_new_tokens: int = 64,
        heard: Callable[[str], None] | None = None,
    ) -> Answer:  # fmt: skip
        """The answer to a question, decoded greedily; ``situation`` gives position and viewing direction in words (as
        in SQA3D).

        ``heard`` is called with the answer so far after each token; an exception in it ends the answer. It is not
        called if the answer may be replaced afterwards by one of the required kind.

        A model with a closed vocabulary replaces unknown words by the nearest known ones (``answer.notes``), or says
        that it does not know them (:mod:`vidllm.model.words`).
        """
        if heard is None or (self._vocabulary is not None and self._vocabulary.allowed(str(question))):
            return self.ask_all([(question, situation)], max_new_tokens)[0]
        with heard_by(lambda ids: heard(self._processor.decode_answers([ids])[0])):
            return self.ask_all([(question, situation)], max_new_tokens)[0]

    def count_tokens(self, question: str, answer: str) -> tuple[int, int]:
        """Number of tokens of a question, including those of the scene, and of an answer."""
        return (self._reader.length(prompts.question_prompt(question)),
                len(encode_answer(self._processor.tokenizer, answer)))  # fmt: skip

    def ask_all(
        self, questions: Sequence[tuple[str, str | None]], max_new_tokens: int = 64, batch_size: int = 32
    ) -> list[Answer]:
        """Answers to (question, situation or None) pairs, decoded as one batch after the cached prefix."""
        for pair in questions:
            prompts.question_prompt(*pair)  # checked as it is given
        if self.in_words is not None:
            return [Answer(said) for said in self.in_words.answers(questions, max_new_tokens)]
        read = [self._in_known_words(*pair) for pair in questions]
        asked = [prompts.question_prompt(*texts) for texts, _, unknown in read if not unknown]
        found = self._processor.decode_answers(self._reader.answers(asked, max_new_tokens, batch_size))
        said = iter([self._of_asked_kind(*pair) for pair in zip(asked, found, strict=True)])
        return [Answer(unknown or next(said), notes) for _, notes, unknown in read]

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        """The words that the model knows; None where any may be said to it."""
        return Vocabulary.read(self._model.name_or_path) if self._model.name_or_path else None

    def _in_known_words(self, *texts: str | None) -> tuple[list[Any], tuple[str, ...], str]:
        """Texts in words that the model knows, notes on what was replaced, and what is said where a word is unknown."""
        if self._vocabulary is None or self._blind:
            return list(texts), (), self._blind
        read = [self._vocabulary.interpret(text or "") for text in texts]
        notes = (f'"{word}" is taken as "{name}"' for one in read for word, name in one.taken)
        unknown = [word for one in read for word in one.unknown]
        return [one.text for one in read], tuple(notes), unknown_words(unknown) if unknown else ""

    def _of_asked_kind(self, prompt: str, said: str) -> str:
        """A colour to who asks for a colour: the likeliest one where the answer is none."""
        allowed = () if self._vocabulary is None else self._vocabulary.allowed(prompt)
        return said if not allowed or said in allowed else self._reader.likeliest(prompt, allowed)

    def describe(self, at: Sequence[float] | None = None, max_new_tokens: int = 96) -> str:
        """A description of the room, or of the object at a point (x, y, z) of the scene frame in metres.

        Says so if no surface was seen within ``UNSEEN_M`` of the point.
        """
        if at is None:
            return self._blind or self._described(None, max_new_tokens)
        if len(at) != 3 or not all(math.isfinite(float(v)) for v in at):
            raise ValueError(f"a point needs three finite numbers x,y,z in metres, received {list(at)}")
        away = self._away(torch.tensor(list(map(float, at))))
        if self._blind or away > UNSEEN_M:
            return self._blind or f"Nothing was seen at this point: the nearest surface is {away:.1f} m away."
        return self._described(at, max_new_tokens)

    def _described(self, at: Sequence[float] | None, max_new_tokens: int) -> str:
        if self.in_words is not None:
            return self.in_words.describe(at, max_new_tokens)
        prompt, point = prompts.room_prompt(), None
        if at is not None:
            prompt, point = prompts.caption_prompt(), torch.tensor([[list(map(float, at))]])
        return self._processor.decode_answers([self._reader.answer(prompt, point, max_new_tokens)])[0]

    def _away(self, point: Tensor) -> float:
        """From a point of the scene frame (3,) to the nearest patch that was seen, metres."""
        seen = self._prefix.patch_positions[0][self._prefix.patch_mask[0]].float().cpu()
        return float((seen - point).norm(dim=-1).min()) if len(seen) else math.inf

    @torch.inference_mode()
    def ground(self, expression: str, several: bool = True) -> Boxes:
        """Boxes of the objects that an expression refers to, best first; the best one only with ``several=False``.

        If the expression has an unknown word, ``boxes.notes`` says so, and at most the best box is returned.
        """
        as_prompt = prompts.multi_grounding_prompt if several else prompts.grounding_prompt
        as_prompt(expression)  # refuses what cannot be asked
        if self.detector is not None:
            boxes = [box for _, box in find(self.data, self.detector, [expression], self.calibration is not None)]
            return Boxes(boxes if several else boxes[:1])
        if self.in_words is not None:
            return self.in_words.ground(expression, several)
        (read,), notes, unknown = self._in_known_words(expression)
        notes = (*notes, unknown) if unknown else notes
        if unknown and several:
            return Boxes((), notes)
        hidden, _ = self._reader.read(as_prompt(read if notes else expression))
        output = self._model.ground(self._prefix, hidden[:, -1:])
        most = self._model.config.grounding.max_boxes
        found = decode_boxes(output, several, most, none_threshold=0.5 if several else 2.0)[0][0]
        return Boxes((self._box(f.box.tolist(), f.score) for f in found), notes)

    def _box(self, box: list[float], score: float) -> Box:
        """A found box (centre, size, yaw) with how far it may be off."""
        center, size = three_numbers(box[:3]), three_numbers(box[3:6])
        if self.calibration is None:
            return Box(center, size, box[6], score)
        centre_error, size_error = self.calibration.box_errors(score)
        return Box(center, size, box[6], score, centre_error * math.hypot(*center), size_error)

    @torch.inference_mode()
    def choose(
        self, expression: str, candidates: Sequence[Sequence[float]], several: bool = False
    ) -> list[tuple[int, float]]:
        """The given boxes that an expression refers to: their indices and scores in [0, 1], best first.

        ``candidates`` are (centre, size, yaw) in the scene frame. With ``several`` none or more than one may be
        returned, otherwise the best one. ValueError without candidates.
        """
        if not len(candidates):
            raise ValueError("expected at least one candidate box, received none")
        if self.in_words is not None:
            return self.in_words.choose(expression, candidates, several)
        as_prompt = prompts.multi_grounding_prompt if several else prompts.grounding_prompt
        hidden, _ = self._reader.read(as_prompt(self._in_known_words(expression)[0][0]))
        seen, boxes = self._prefix, torch.tensor([list(map(float, box)) for box in candidates], device=hidden.device)
        logits, none_logit = self._model.grounding.choose_proposal(
            seen.patches, seen.patch_positions, seen.patch_mask, hidden[:, -1:], boxes[None]
        )
        return decode_choice(logits[0, 0], none_logit[0, 0], boxes, several, self._model.config.grounding.max_boxes)

    def inventory(self, names: Sequence[str] = NAMES) -> Inventory:
        """All objects of the scene, the room's floor and height, and the camera path (docs/measuring.md).

        ``names``: the objects to look for. The last inventory is cached for the same names and detector. ValueError for
        a name that cannot be part of a question, or a scene without depth.
        """
        wanted = tuple(prompts.check_question(name, what="name") for name in names), self.detector
        kept = self._inventory
        if kept is None or kept[0] != wanted:
            own = self.in_words.scene if self.in_words else self  # asked is the model that made it
            kept = self._inventory = wanted, take(own, wanted[0])
        return kept[1]

    def measure(
        self, first: str | tuple[int, float, float], second: str | tuple[int, float, float] | None = None
    ) -> Measurement:
        """Sizes and heights of one or two objects or points, and the distances between two, in metres with intervals.

        Each is an expression ("the table"; its best box is measured) or a pixel (frame, u, v) of an original picture,
        with the index of a sampled frame, from 0. ValueError for an expression without an object here or a pixel
        without depth.
        """
        return measure(self, first, second)

    def logits(self, prompt: str) -> Tensor:
        """Next-token logits (vocabulary,) after a whole prompt, using the cached prefix."""
        return self._reader.read(prompt)[1][0, -1].float()

    @cached_property
    def in_words(self) -> SceneInWords | None:
        """The input of the vision-language model that gives the answers (docs/vision_language.md); None without one."""
        return told_in_words(self, self._model)

    @cached_property
    def _reader(self) -> CachedPrefix:
        """The language model behind this scene's visual prefix."""
        return CachedPrefix(self._model, self._processor.tokenizer, self._prefix)

    # ---- files ------------------------------------------------------------------------------------------------

    def save(
        self,
        folder: str | Path,
        formats: Sequence[str] = DEFAULT_FORMATS,
        boxes: Sequence[Box] = (),
        labels: Sequence[str] = (),
        transcript: Sequence[tuple[str, str]] = (),
    ) -> list[Path]:
        """Write the reconstruction atomically; returns the paths.

        ``boxes`` with ``labels`` are shown in overview, page, video and tables of boxes; ``transcript`` (questions and
        answers) in the page. Formats: ``vidllm.export.EXPORTERS``, and "scene", which ``vidllm.load_scene(folder)``
        reads. Raises OutputError (an OSError) if the folder cannot be written, ValueError for an unknown format.
        """
        from vidllm.scene_file import write_formats

        named = labels or [""] * len(boxes)
        shown = [{**box.as_dict(), "label": label} for box, label in zip(boxes, named, strict=True)]
        title = Path(self._frames.source).name or "scene"
        return write_formats(self, self._model, Path(folder), formats, shown, (title, transcript))

    def saved(self) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """The content of a saved scene: its kind, values for JSON and tensors (:mod:`vidllm.scene_file`)."""
        from vidllm.scene_file import as_bytes, flat

        values, tensors = flat(frames=self._frames, geometry=self._geometry, prefix=self._prefix)
        return "scene", values, {**tensors, "frames.images": as_bytes(self._frames.images)}


@torch.inference_mode()
def scene_with(model: Network, processor: Processor, frames: Frames, geometry: Geometry) -> Scene:
    """A scene with a given geometry, on the model's device."""
    parameter = next(model.parameters())
    features = model.encode(frames.images[None].to(parameter.device, parameter.dtype))
    return Scene(model, processor, frames, geometry, model.build_visual_tokens(features, geometry))
