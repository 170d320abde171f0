"""Our bin functions, with ZoeDepth's weights and options, give ZoeDepth's depth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from vidllm.model.metric_depth import BinKind, attract, attractor_points, ordinal_probabilities, resize, seed_centres

GOLDEN = Path(__file__).parents[1] / "golden" / "zoe_bins"
LOW, HIGH, ALPHA, BINS = 0.001, 10.0, 300.0, 64
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.0212, 50.0


class Head:
    """ZoeDepth's data flow around our functions, with its state-dict names."""

    def __init__(self, kind: BinKind) -> None:
        self.kind = kind
        self.weights = {k: v.float() for k, v in load_file(GOLDEN / f"weights_{kind}.safetensors").items()}

    def conv(self, name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def mlp(self, name: str, x: Tensor) -> Tensor:
        return self.conv(f"{name}._net.2", F.relu(self.conv(f"{name}._net.0", x)))

    def centres(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        x = self.conv("conv2", inputs["l4_rn"])
        centres, previous = seed_centres(self.mlp("seed_bin_regressor", x), self.kind), self.mlp("seed_projector", x)
        for level, name in enumerate(("r4", "r3", "r2", "r1")):
            features = inputs[name]
            embedding = self.mlp(f"projectors.{level}", features)
            raw = self.mlp(f"attractors.{level}", embedding + resize(previous, features.shape[-2:]))
            centres = attract(resize(centres, features.shape[-2:]), attractor_points(raw, self.kind), ALPHA)
            previous = embedding
        if self.kind == "normed":
            centres = (LOW + (HIGH - LOW) * centres).sort(dim=1).values.clamp(LOW, HIGH)
        return centres, previous

    def probabilities(self, inputs: dict[str, Tensor], embedding: Tensor) -> Tensor:
        size = inputs["out_conv"].shape[-2:]
        x = torch.cat([inputs["out_conv"], inputs["rel_depth"][:, None], resize(embedding, size)], 1)
        name = "conditional_log_binomial.mlp"
        h = F.softplus(self.conv(f"{name}.2", F.gelu(self.conv(f"{name}.0", x)))) + 1e-4
        q, warm = h[:, :1] / h[:, :2].sum(1, True), h[:, 2:3] / h[:, 2:].sum(1, True)
        temperature = MIN_TEMPERATURE + (MAX_TEMPERATURE - MIN_TEMPERATURE) * warm
        return ordinal_probabilities(torch.logit(q, eps=1e-4), temperature, BINS)


@pytest.mark.parametrize("kind", ["normed", "softplus"])
def test_zoedepth_is_reproduced(kind: BinKind) -> None:
    head = Head(kind)
    inputs = {k: v.float() for k, v in load_file(GOLDEN / "inputs.safetensors").items()}
    outputs = {k: v.float() for k, v in load_file(GOLDEN / "outputs.safetensors").items()}
    centres, embedding = head.centres(inputs)
    probabilities = head.probabilities(inputs, embedding)
    centres = resize(centres, probabilities.shape[-2:])
    depth = (probabilities * centres).sum(1, keepdim=True)
    reference = outputs[f"{kind}.metric_depth"]
    assert (depth - reference).abs().max() <= 2e-5 * reference.abs().max()
    for name, ours in (("probs", probabilities), ("bin_centers", centres)):
        torch.testing.assert_close(ours[..., ::8, ::8], outputs[f"{kind}.{name}"], atol=1e-3, rtol=2e-3)
