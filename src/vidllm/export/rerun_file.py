"""A recording for rerun (rerun.io): points, cameras with their pictures and depth over time, boxes. Extra `rerun`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidllm.export.box_drawing import Boxes, box_colour, box_labels, box_scores, boxes_array
from vidllm.export.geometry import SceneData
from vidllm.io.atomic import atomic_path

MAX_POINTS = 500_000


def write_rrd(path: str | Path, data: SceneData, *, boxes: Boxes = ()) -> None:
    """Write the recording; the scene frame is the world (z up, metres). Raises ValueError without rerun-sdk."""
    try:
        import rerun as rr
    except ImportError as error:
        raise ValueError("the format rrd needs rerun-sdk; pip install vidllm[rerun]") from error
    with atomic_path(path) as temporary:
        recording = rr.RecordingStream("vidllm")
        recording.save(str(temporary))
        recording.log("scene", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        xyz, rgb = data.points(data.stride_for(MAX_POINTS))
        recording.log("scene/points", rr.Points3D(xyz, colors=rgb, radii=0.01), static=True)
        recording.log("scene/path", rr.LineStrips3D([data.scene_from_camera[:, :3, 3]]), static=True)
        rows = boxes_array(boxes)
        if len(rows):
            turns = [rr.Quaternion(xyzw=[0, 0, np.sin(yaw / 2), np.cos(yaw / 2)]) for yaw in rows[:, 6]]
            colours = [box_colour(number) for number in range(len(rows))]
            labels = [label if score is None else f"{label} {score:.2f}"
                      for label, score in zip(box_labels(boxes), box_scores(boxes), strict=True)]  # fmt: skip
            recording.log("scene/boxes", rr.Boxes3D(centers=rows[:, :3], half_sizes=rows[:, 3:6] / 2, quaternions=turns,
                                                    colors=colours, labels=labels), static=True)  # fmt: skip
        height, width = data.size
        for index, pose in enumerate(data.scene_from_camera):
            recording.set_time("frame", sequence=index)
            recording.log("scene/camera", rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
            lens = rr.Pinhole(image_from_camera=data.intrinsics[index], resolution=[width, height],
                              camera_xyz=rr.ViewCoordinates.RDF)  # fmt: skip
            recording.log("scene/camera/view", lens)
            recording.log("scene/camera/view/rgb", rr.Image(data.rgb[index]).compress(jpeg_quality=85))
            recording.log("scene/camera/view/depth", rr.DepthImage(data.depth_m[index].astype(np.float32), meter=1.0))
        recording.flush()
        recording.disconnect()
