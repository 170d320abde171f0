"""Gradient checkpointing: activations inside blocks are computed again in the backward pass instead of kept."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Switch it on in every block of a model that knows it; numbers stay the same."""
    switched: Any = model  # transformers renamed the switch during its fifth version
    enable = getattr(switched, "activation_checkpointing_enable", None) or switched.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    switched.disable_input_require_grads()  # it wants them of every input: frozen parts would compute a backward pass
