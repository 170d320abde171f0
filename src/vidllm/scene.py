"""The user interface: a model that reconstructs videos, and scenes that answer questions.

    model = vidllm.load()
    scene = model.reconstruct("kitchen.mp4")   # encoded once
    scene.ask("How many chairs are there?")    # reuses the reconstruction and the key-value cache of the visual prefix
    scene.save("kitchen")                      # or: vidllm reconstruct kitchen.mp4 -o kitchen --format scene
    scene = vidllm.load_scene("kitchen")       # the same answers, boxes and exports, without encoding the video again

Lengths are metres; see :class:`Scene` for the coordinate frames.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from vidllm.answers import Box, Scale
from vidllm.geometry.picture_motion import PictureMotion
from vidllm.io.cameras.given import GivenCameras
from vidllm.io.captures import open_capture
from vidllm.io.frames import Frames, joined
from vidllm.long_video.reconstruction import Snapshot
from vidllm.long_video.streaming import LongScene, Record, StreamingReconstructor
from vidllm.long_video.windows import window_sizes
from vidllm.model.configuration import TINY
from vidllm.model.modeling import Network
from vidllm.model.outputs import Geometry, SceneScale, VisualPrefix
from vidllm.model.priors import KnownScale, known_of
from vidllm.model.processing import Processor
from vidllm.reconstruction import Scene, scene_with
from vidllm.scene_file import VALUES, SavedMaps, SceneFile, from_texts, in_words, origin_of

__all__ = ["TINY", "Box", "Scale", "Scene", "VidLLM", "load", "load_scene"]


class VidLLM:
    """A model with its processor: ``reconstruct`` turns a video into a :class:`Scene`."""

    def __init__(self, model: Network, processor: Processor, refine: bool | None = None) -> None:
        """``refine``: the default of reconstructions; None: ``config.refine``."""
        self.model, self.processor = model.eval(), processor
        self.refine = bool(model.config.refine) if refine is None else refine

    def reconstruct(
        self,
        source: Any,
        num_frames: int | None = None,
        known: KnownScale | None = None,
        window: int | None = None,
        overlap: int | None = None,
        progress: Callable[[int], None] | None = None,
        cameras: GivenCameras | None = None,
        refine: bool | None = None,
    ) -> Scene:
        """Reconstruct a video file, recording, folder or list of pictures, array, or frames in metres.

        ``num_frames`` frames are sampled evenly (all if the video has fewer). None: as many as neighbouring frames need
        to overlap, and at least the model's default (:mod:`vidllm.long_video.frame_choice`). ``known``: a known scale,
        used instead of the predicted one; the ends of a known length are pixels of the original pictures of one sampled
        frame. ``cameras``: known cameras and depth, used instead of predicted ones and of those of a recording
        (docs/known_cameras.md). ``refine``: adjust cameras, focal length and depth until the frames agree
        (docs/refinement.md); None: as configured when the model was loaded.

        More frames than ``window`` (None: ``config.windows.whole_up_to``) are processed in windows that share
        ``overlap`` frames (docs/long_video.md); ``progress`` is called with the number of frames done after each.
        """
        if num_frames is not None and num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, received {num_frames}")
        cameras = known_cameras(source) if cameras is None else cameras
        _check_known(known, cameras)
        config, images = self.model.config, self.processor.image_processor
        size, shared = window_sizes(window, overlap, config.default_frames, config.windows)
        most = config.windows.whole_up_to if window is None and overlap is None else size
        chosen: int | list[int] = num_frames or 0
        if isinstance(source, Frames):
            chosen = len(source)
        elif num_frames is None:
            from vidllm.long_video.frame_choice import choose_frames

            source = list(source) if isinstance(source, Iterator) and not hasattr(source, "read") else source
            chosen = choose_frames(source, images.num_frames, config.windows.most)
        if (chosen if isinstance(chosen, int) else len(chosen)) <= most:
            frames = source if isinstance(source, Frames) else images.read(source, chosen)
            return self._whole(frames, known, cameras, refine)
        stream = source.singly() if isinstance(source, Frames) else images.stream(source, chosen)
        begun = list(islice(stream, most + 1))
        if 0 < len(begun) <= most:
            return self._whole(joined(begun), known, cameras, refine)
        growing = self._growing(size, shared, known, True, cameras, refine, True)
        for done in growing.run(chain(begun, stream)):
            if progress is not None:
                progress(done)
        growing.close_loops()
        return _told(growing.scene)

    @torch.inference_mode()
    def _whole(
        self, frames: Frames, known: KnownScale | None, cameras: GivenCameras | None, refine: bool | None
    ) -> Scene:
        parameter = next(self.model.parameters())
        images = frames.images[None].to(parameter.device, parameter.dtype)
        if known is not None and known.length is not None:
            known = KnownScale(length=known.length.mapped(frames.affine))
        given = known_of(cameras, frames)
        found = self.model.encode_scene(images, known, given, self.refine if refine is None else refine)
        return _told(Scene(self.model, self.processor, frames, found.geometry, found.prefix))

    def stream(
        self,
        source: Any,
        window: int | None = None,
        overlap: int | None = None,
        num_frames: int | None = None,
        known: KnownScale | None = None,
        keep_maps: bool = True,
        refine: bool | None = None,
        cameras: GivenCameras | None = None,
    ) -> Iterator[LongScene]:
        """The scene after each window of a video, with all frames so far; each can be used then and later.

        ``source`` as for :meth:`reconstruct`, or an iterator of images (a live camera). ``num_frames`` frames are
        sampled evenly; None: every frame. ``keep_maps=False`` stores no depth maps and pictures (by default they are in
        temporary files), which cameras, questions and boxes do not need. ``known``, ``cameras`` and ``refine`` (for
        each window) as for :meth:`reconstruct`.
        """
        cameras = known_cameras(source) if cameras is None else cameras
        _check_known(known, cameras)
        config = self.model.config
        size, shared = window_sizes(window, overlap, config.default_frames, config.windows)
        growing = self._growing(size, shared, known, keep_maps, cameras, refine)
        return (growing.scene for _ in growing.run(self.processor.image_processor.stream(source, num_frames)))

    def _growing(
        self, size: int, overlap: int, known: KnownScale | None, keep_maps: bool, cameras: GivenCameras | None,
        refine: bool | None, loops: bool = False,
    ) -> StreamingReconstructor:  # fmt: skip
        refine, model = self.refine if refine is None else refine, (self.model, self.processor)
        loops = loops and refine and (cameras is None or cameras.poses is None)
        return StreamingReconstructor(model, size, overlap, known, keep_maps, cameras, refine, loops)

    def with_geometry(self, frames: Frames, geometry: Geometry) -> Scene:
        """A scene with a given geometry (for example the ground truth, for oracle evaluation)."""
        return scene_with(self.model, self.processor, frames, geometry)


def _told(scene: Scene) -> Scene:
    """The scene, with a warning if its frames do not agree after refinement."""
    if scene.frames_agree is False:
        warnings.warn(scene.warnings[0], stacklevel=1)  # the command line shows the warnings of our modules
    return scene


def known_cameras(source: Any) -> GivenCameras | None:
    """The cameras of a recording (:mod:`vidllm.io.captures`); None for any other source."""
    capture = open_capture(source) if isinstance(source, str | Path) else None
    return None if capture is None else capture.cameras


def _check_known(known: KnownScale | None, cameras: GivenCameras | None) -> None:
    """ValueError if the scale is given twice."""
    if known is not None and cameras is not None and cameras.gives_metres:
        raise ValueError("poses or depth in metres already give the scale; leave scale, camera height and known "
                         "length out, or say that the poses' scale is unknown")  # fmt: skip


def load(
    model: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    language_dtype: str | None = None,
    offload: str | None = None,
    refine: bool | None = None,
    vlm: str | Path | None = None,
) -> VidLLM:
    """The shipped model ``tiny``, or a model from a folder or hub id.

    ``dtype`` "auto": bfloat16 if the device supports it, else float32. ``language_dtype`` "int8" or "int4": quantise
    the layers of the language model. ``offload="cpu"``: keep them in host memory (docs/performance.md). ``refine``:
    default of every reconstruction; None: as in the model's configuration (docs/refinement.md). ``vlm``: folder or hub
    id of a vision-language model of transformers that gives the answers, from frames and inventory
    (docs/vision_language.md). ValueError, naming the folder, if it is missing or contains another kind of model.
    """
    from vidllm.model.loading import load_network
    from vidllm.model.precision import check_offload, describe_dtype, is_slow, place, resolve_dtype

    path, where = TINY if model is None else model, _device(device)
    if offload is not None:
        check_offload()
    level = logging.WARNING if is_slow(dtype, where) else logging.INFO
    logging.getLogger(__name__).log(level, describe_dtype(dtype, where))
    network, processor = load_network(path, dtype=getattr(torch, resolve_dtype(dtype, where)[0]))
    place(network, where, language_dtype, offload)
    if vlm is not None:
        from vidllm.baselines.vision_language import load_vision_language

        network.speaker = load_vision_language(vlm, device, dtype)
    return VidLLM(network, processor, refine)


def _device(name: str) -> torch.device:
    """The device of this name; ValueError if it is unknown or not available."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; expected cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    return device


# ---- saved scenes --------------------------------------------------------------------------------------------------

def load_scene(folder: str | Path, model: VidLLM | str | Path | None = None, device: str = "cpu") -> Scene:
    """The scene that ``scene.save(folder)`` wrote: the same answers, boxes and exports, without the video.

    ``model``: a loaded model, or its folder or hub id; None: the model named in the scene, if it is the shipped model
    or a folder. A model that is loaded here has the dtypes of the scene. ValueError, naming the file, if the folder
    contains no saved scene or a damaged one, or for another model than that of the scene.
    """
    saved = SceneFile.read(folder)
    if not isinstance(model, VidLLM):
        place = saved.place() if model is None else model
        model = load(place, device, saved.origin["dtype"], saved.origin["language_dtype"])
    return restored(saved, model)


def restored(file: SceneFile, owner: VidLLM) -> Scene:
    """The scene, with tensors on the model's device; ValueError if it belongs to another model."""
    ours = origin_of(owner.model)
    if ours["fingerprint"] != file.origin["fingerprint"]:
        raise ValueError(f"{file.folder}: the scene came from {in_words(file.origin)}, but this model is "
                         f"{in_words(ours)}; give that one, in the same dtypes")  # fmt: skip
    try:
        return _long(file, owner) if file.values["kind"] == "long scene" else _whole(file, owner)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{file.folder / VALUES}: does not describe a scene ({type(error).__name__}: "
                         f"{error}); save the scene again") from error  # fmt: skip


def _whole(file: SceneFile, owner: VidLLM) -> Scene:
    device = next(owner.model.parameters()).device
    geometry, prefix = file.build(Geometry, "geometry", device), file.build(VisualPrefix, "prefix", device)
    return Scene(owner.model, owner.processor, file.build(Frames, "frames"), geometry, prefix)


def _long(file: SceneFile, owner: VidLLM) -> LongScene:
    device = next(owner.model.parameters()).device
    snapshot = replace(
        file.build(Snapshot, "snapshot"),
        scale=file.build(SceneScale, "snapshot.scale", device),
        prefix=file.build(VisualPrefix, "snapshot.prefix", device),
    )
    record = Record(
        SavedMaps(file.tensors) if "maps.depth" in file.tensors else None,
        file.build(Frames, "first"), file.tensors["times"].tolist(), file.tensors["indices"].tolist(),
        list(from_texts(file.values["values"]["names"])), [file.tensors["depths"].clone()],
        PictureMotion(file.tensors["views"].tolist()),
        file.tensors.get("contrasts", torch.ones(len(file.tensors["views"]))).tolist(),
    )  # fmt: skip
    return LongScene(owner.model, owner.processor, snapshot, record)
