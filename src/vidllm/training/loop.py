"""Stage 2's run through the loop (:mod:`driver`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vidllm.training.config import TrainConfig
from vidllm.training.driver import drive
from vidllm.training.run import Run
from vidllm.training.steps import train_step
from vidllm.training.texts import ExtraQuestions

__all__ = ["train", "train_step"]


def train(
    config: TrainConfig, log: Callable[[str], None] | None = None, extra_questions: ExtraQuestions | None = None
) -> Path:
    """Run (or resume) joint training; returns the folder of the final model.

    ``extra_questions`` make the template questions of ``plain`` and ``places``
    (``vidllm_rooms.language.template_questions``).

    Raises ValueError as :func:`~vidllm.training.driver.drive`.
    """
    return drive(lambda: Run.build(config, extra_questions), config, log)
