"""A reconstructed scene in a folder, to be asked later without its video being encoded again.

    scene.save("kitchen")                    # or: vidllm reconstruct kitchen.mp4 -o kitchen --format scene
    scene = vidllm.load_scene("kitchen")     # the same answers, boxes and exports
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vidllm.geometry.picture_motion import PictureMotion
from vidllm.io.frames import Frames
from vidllm.long_video.reconstruction import Snapshot
from vidllm.long_video.streaming import LongScene, Record
from vidllm.model.outputs import Geometry, SceneScale, VisualPrefix
from vidllm.scene import Scene, VidLLM, load
from vidllm.scene_file import VALUES, SavedMaps, SceneFile, from_texts, in_words, origin_of


def load_scene(folder: str | Path, model: VidLLM | str | Path | None = None, device: str = "cpu") -> Scene:
    """The scene that ``scene.save(folder)`` wrote: the same answers, boxes and exports, without its video.

    ``model``: a loaded one, or the folder or hub id of one; None: the one that the scene names, where that is the
    shipped model or a folder. A model that is loaded here has the dtypes of the scene's. ValueError, naming the file,
    where the folder holds no saved scene or a damaged one; ValueError for another model than the scene came from.
    """
    saved = SceneFile.read(folder)
    if not isinstance(model, VidLLM):
        place = saved.place() if model is None else model
        model = load(place, device, saved.origin["dtype"], saved.origin["language_dtype"])
    return restored(saved, model)


def restored(file: SceneFile, owner: VidLLM) -> Scene:
    """The scene, its tensors on the model's device; ValueError where it came from another model."""
    ours = origin_of(owner.model)
    if ours["fingerprint"] != file.origin["fingerprint"]:
        raise ValueError(f"{file.folder}: the scene came from {in_words(file.origin)}, and this model is another: "
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
    )  # fmt: skip
    return LongScene(owner.model, owner.processor, snapshot, record)
