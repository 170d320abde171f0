"""Interlaced frames to whole pictures: libav's `bwdif`, which looks at the frame before and the frame after."""

from __future__ import annotations

from collections.abc import Callable

import av
import av.filter


def deinterlaced(
    frame: av.VideoFrame, before: Callable[[], av.VideoFrame | None], after: Callable[[], av.VideoFrame | None]
) -> av.VideoFrame:
    """The picture of a frame's first field, the lines of the other field interpolated; other frames unchanged.

    The neighbours in presentation order are asked for only where the frame is interlaced; None at the ends of a film.
    """
    if not frame.interlaced_frame:
        return frame
    neighbours = [before(), frame, after()]
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=all"), graph.add("buffersink")).configure()
    for neighbour in neighbours:
        if neighbour is not None and _alike(neighbour, frame):
            graph.push(neighbour)
    graph.push(None)
    wanted = 0 if neighbours[0] is None or not _alike(neighbours[0], frame) else 1
    for _ in range(wanted):
        graph.pull()
    picture = graph.pull()
    assert isinstance(picture, av.VideoFrame)
    return picture


def _alike(one: av.VideoFrame, other: av.VideoFrame) -> bool:
    return (one.width, one.height, one.format.name) == (other.width, other.height, other.format.name)
