"""The first half of the cascade: a reconstruction network with metric scale, without a language model.

It is as small as its network (docs/geometry_models.md) and supports all measurements, drawings and exports; questions
can be answered by a vision-language model. The features of its patches are their mean colours.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.baselines.cascade import CascadeConfig, CascadeForConditionalGeneration
from vidllm.model.modeling import Network
from vidllm.model.outputs import Geometry


class ReconstructionOnlyConfig(CascadeConfig):
    """Configuration of :class:`ReconstructionOnly`; the language model that every configuration has is not built."""

    model_type = "vidllm_reconstruction"

    def __init__(self, **kwargs: Any) -> None:  # transformers would make one of its own
        super().__init__(**kwargs)


class ReconstructionOnly(CascadeForConditionalGeneration):
    """A cascade that reconstructs and does not answer."""

    config: ReconstructionOnlyConfig
    config_class = ReconstructionOnlyConfig

    def _build_language(self, config: CascadeConfig) -> None:
        """Placeholders."""
        self.projector: nn.Module = nn.Identity()
        self.language_model = nn.Module()

    def get_input_embeddings(self) -> Any:
        """There are none."""
        return None

    def get_output_embeddings(self) -> Any:
        """There are none."""
        return None

    def language_tokens(self, pixel_values: Float[Tensor, "B F 3 H W"]) -> Float[Tensor, "B F P 3"]:
        """The mean colours of the patches."""
        pooled = F.avg_pool2d(pixel_values.flatten(0, 1), self.config.encoder.patch_size)
        return pooled.flatten(2).transpose(1, 2).unflatten(0, pixel_values.shape[:2])

    def patch_positions(self, geometry: Geometry, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Patch centres in the scene frame (B,F,P,3), metres, and which of them are valid."""
        return Network.patch_positions(self, geometry, grid)

    def encode_parts(self, tokenizer: Any, prompt: str) -> tuple[list[int], list[int]]:
        """ValueError: nothing here can read a prompt."""
        raise ValueError("this model reconstructs and has no language model to ask; import one with --preset cascade")
