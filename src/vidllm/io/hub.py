"""Models of the Hugging Face hub: the form of their ids, and local copies."""

from __future__ import annotations

import re
from pathlib import Path

_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BESIDE = ["*.json", "tokenizer*", "*.model", "*.jinja", "*.txt"]  # what is fetched beside weights
TIMEOUT_S = 10


def may_be_hub_id(place: str | Path) -> bool:
    """Whether a name that is no file or folder here can be one of the hub's: owner/name, and no folder "owner" here."""
    return isinstance(place, str) and _ID.fullmatch(place) is not None and not Path(place).parent.is_dir()


def fetch(hub_id: str) -> Path:
    """A copy of a hub's model on this machine: safetensors where there are some, else .bin or .pt.

    The hub is asked once, for at most :data:`TIMEOUT_S` seconds; where it does not answer, the copy that was fetched
    before is taken.

    Raises:
        ValueError: there is no such model, or it cannot be fetched.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        HfApi().model_info(hub_id, timeout=TIMEOUT_S)
        folder = Path(snapshot_download(hub_id, allow_patterns=[*_BESIDE, "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(hub_id, allow_patterns=[*_BESIDE, "*.bin", "*.pt", "*.pth"]))
    except Exception as error:  # the hub and its network libraries have errors of their own
        folder_before = _fetched_before(hub_id)
        if folder_before is not None:
            return folder_before
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{hub_id}: no such folder, and it cannot be fetched from the hub ({type(error).__name__}: "
            f"{reason[:160]}); give the folder of a model, or connect to the network"
        ) from error
    return folder


def _fetched_before(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except Exception:  # as above: none here
        return None
