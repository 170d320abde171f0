"""ScanNet and its language sets as they were downloaded: readers of the files exactly as distributed.

    DataRoot("data").scene("scene0000_00")          frames, poses, axis alignment, objects with boxes
    DataRoot("data").annotations("scanqa", "val")   entries as small frozen dataclasses

``vidllm data check`` says what is there, ``vidllm data pack`` writes training data.
"""

from __future__ import annotations

from vidllm.datasets.layout import SETS, DataRoot
from vidllm.datasets.scannet import ScanNetScene
from vidllm.datasets.sens import write_sens

__all__ = ["SETS", "DataRoot", "ScanNetScene", "write_sens"]
