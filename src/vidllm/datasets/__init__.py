"""ScanNet and its language sets as they were downloaded: readers of the files exactly as distributed.

    layout.DataRoot("data").scene("scene0000_00")          frames, poses, axis alignment, objects with boxes
    layout.DataRoot("data").annotations("scanqa", "val")   entries as small frozen dataclasses

``vidllm data check`` says what is there, ``vidllm data pack`` writes training data. Nothing is imported here, so that
files of answers are scored without torch.
"""
