"""TensorBoard and Weights & Biases beside the log, through accelerate's trackers; nothing is imported without them."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vidllm.training.loop_config import LoopConfig

#: What each needs to be installed, and the extra of this package that brings it.
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


class Trackers:
    """What a run's log lines are also sent to; with no configuration, or one that names none, nothing."""

    def __init__(self, config: LoopConfig | None) -> None:
        self._accelerator: Any = None
        if config is None or not config.trackers:
            return
        check_trackers(config.trackers)
        from accelerate import Accelerator

        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        self._accelerator = Accelerator(log_with=list(config.trackers), project_dir=str(out))
        plain = {k: v if isinstance(v, str | int | float | bool) else str(v) for k, v in asdict(config).items()}
        named = {"wandb": {"name": out.name, "dir": str(out)}} if "wandb" in config.trackers else {}
        self._accelerator.init_trackers("vidllm", config=plain, init_kwargs=named)

    def log(self, line: dict[str, float | int], step: int) -> None:
        """Send a line of the log."""
        if self._accelerator is not None:
            self._accelerator.log({k: v for k, v in line.items() if k != "step"}, step=step)

    def close(self) -> None:
        """Nothing more comes."""
        if self._accelerator is not None:
            self._accelerator.end_training()


def check_trackers(names: tuple[str, ...]) -> None:
    """ValueError for a tracker that is not known or not installed, with what to install."""
    for name in names:
        if name not in PACKAGES:
            raise ValueError(f"unknown tracker {name!r}; known are {', '.join(PACKAGES)}")
        if not any(find_spec(package) for package in PACKAGES[name]) or find_spec("accelerate") is None:
            raise ValueError(f"the tracker {name!r} is not installed; pip install 'vidllm[{name}]'")
