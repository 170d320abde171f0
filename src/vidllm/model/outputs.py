"""Dataclasses that the parts of the model exchange, in the order of Figure 2.

B scenes, F frames, H x W pixels, h x w patches, P = h w patches per frame, C width, K bridge tokens, E expressions,
Q queries. "World" is the first camera's frame, "scene" the level frame (docs/method.md, section 0).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass
class EncoderOutput:
    """What the encoder gives for B scenes of F frames.

    ``tokens``: final-norm patch tokens, row by row. ``intermediate_features``: raw patch tokens after each block of
    ``config.tap_layers``, in that order. ``grid``: patches down and across, P = h * w.
    """

    tokens: Float[Tensor, "B F P C"]
    intermediate_features: list[Float[Tensor, "B F P C"]]
    grid: tuple[int, int]


@dataclass(frozen=True)
class AdapterOutput:
    """The two streams (B,F,P,C) and the bridge: (B,K,C) for one a scene, (B,F,K,C) for one a frame, None without."""

    geometry: Tensor
    language: Tensor
    bridge: Tensor | None

    def frame_bridge(self) -> Float[Tensor, "B F K C"] | None:
        """The bridge tokens of every frame."""
        if self.bridge is None or self.bridge.ndim == 4:
            return self.bridge
        return self.bridge[:, None].expand(-1, self.geometry.shape[1], -1, -1)


@dataclass
class Features:
    """The shared encoder's tokens and the adapter's two streams, of images of ``image_size`` (H,W)."""

    encoder: EncoderOutput
    streams: AdapterOutput
    image_size: tuple[int, int]


@dataclass
class GlobalFrameOutput:
    """Patch tokens of the layers that are read, by layer index; the last layer's camera (index 0) and register tokens.

    Width 2C: the output of the frame block beside that of the global block.
    """

    intermediate_features: dict[int, Float[Tensor, "B F P D"]]
    special: Float[Tensor, "B F S D"]


@dataclass
class Cameras:
    """Cameras at relative scale: ``pose_encodings`` one (B,F,9) a refinement; ``up`` (B,3) in the first camera.

    ``dense_features``: the four layers (B,F,P,D) that the dense heads read.
    """

    attended: GlobalFrameOutput
    pose_encodings: list[Tensor]
    up: Tensor
    dense_features: list[Tensor]


@dataclass(frozen=True)
class MetricDepthOutput:
    """``depth_m`` (B,F,H,W) metres along the optical axis, ``log_std`` the standard deviation of its logarithm."""

    depth_m: Tensor
    log_std: Tensor


@dataclass(frozen=True)
class SceneScale:
    """Metres per unit of relative depth, and how well the images agree.

    ``scale`` (B,); ``per_image`` (B,F), nan where an image was not sampled or had no valid pixel; ``spread`` (B,)
    median absolute deviation of the images' factors relative to the scale (0.1 = 10%, nan below two votes);
    ``valid`` (B,) whether any image voted (the scale is 1 otherwise).
    """

    scale: Tensor
    per_image: Tensor
    spread: Tensor
    valid: Tensor


@dataclass(kw_only=True)
class Geometry:
    """The reconstruction in metres, the world being the first camera's frame.

    extrinsics (B,F,3,4) camera-from-world; intrinsics (B,F,3,3) pixels; depth_m, confidence, metric_depth_m
    (B,F,H,W); up (B,3) in the first camera's frame; scene_from_world (B,4,4); log_std (B,F,H,W) standard deviation of
    the logarithm of depth that the metric depth model tells (None where it tells none). After refinement: agrees (B,)
    whether the frames do, and contrast (B,F-1) of neighbours (:class:`vidllm.geometry.bundle_adjustment.Adjusted`).
    registration: what the cameras come from, "learned", "known" or "sfm" (:mod:`vidllm.feature_registration`).
    """

    extrinsics: Tensor
    intrinsics: Tensor
    depth_m: Tensor
    confidence: Tensor
    metric_depth_m: Tensor | None
    scale: SceneScale
    up: Tensor
    scene_from_world: Tensor
    log_std: Tensor | None = None
    agrees: Tensor | None = None
    contrast: Tensor | None = None
    registration: str = "learned"


@dataclass(frozen=True)
class PooledPatches:
    """Voxel means of a batch of scenes, padded to the longest (at least one place).

    ``features`` (B,T,C), ``positions`` (B,T,3) mean positions in metres, ``mask`` (B,T) true where a patch is,
    ``inverse`` (B,N) the pooled index of every input patch (-1 where invalid), ``voxel_size`` (B,) metres used.
    """

    features: Tensor
    positions: Tensor
    mask: Tensor
    inverse: Tensor
    voxel_size: Tensor


@dataclass
class VisualPrefix:
    """What the language model reads of a scene: bridge tokens, then pooled 3D patches.

    tokens (B,T,D) and mask (B,T); patches (B,N,C) pooled features before the projector with their scene positions
    (B,N,3) in metres and mask (B,N), which the grounding decoder reads; patch_index (B,F*P) tells which of the N each
    image patch was pooled into (-1: none).
    """

    tokens: Tensor
    mask: Tensor
    patches: Tensor
    patch_positions: Tensor
    patch_mask: Tensor
    patch_index: Tensor


@dataclass
class SceneOutput:
    """A scene from its pixels to the input of the language model."""

    features: Features
    geometry: Geometry
    prefix: VisualPrefix


@dataclass(frozen=True)
class GroundingOutput:
    """Boxes and scores of E expressions in B scenes; Q queries, L layers, metres in the scene frame.

    ``boxes`` (L,B,E,Q,7) after each layer: centre, size, yaw about z in (-pi/2, pi/2]; ``logits`` (B,E,Q)
    similarity over temperature; ``none_logit`` (B,E) "no such object"; ``query_positions`` (B,Q,3);
    ``query_mask`` (B,Q) false for padding, whose logits are -1e4.
    """

    boxes: Tensor
    logits: Tensor
    none_logit: Tensor
    query_positions: Tensor
    query_mask: Tensor


def check_geometry(geometry: Geometry, name: str | None) -> None:
    """ValueError, calling the model ``name``, where cameras, depth or up direction are not finite or up is zero."""
    parts = geometry.extrinsics, geometry.intrinsics, geometry.depth_m, geometry.up, geometry.scene_from_world
    if all(bool(part.isfinite().all()) for part in parts) and bool((geometry.up.norm(dim=-1) > 0.5).all()):
        return
    raise ValueError(f"{name or 'the model'}: its cameras, depth or up direction are not finite; take other weights, "
                     "or --dtype float32")  # fmt: skip
