"""The package as a whole: a cheap import, one version, sizes held by the ratchet."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import vidllm

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_import_is_cheap():
    heavy = "{'torch', 'transformers', 'numpy', 'av', 'PIL', 'tyro'}"
    done = run("-c", f"import sys, vidllm; print(sorted({heavy} & set(sys.modules)))")
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


AUTO = """
import vidllm
from transformers import {name}
print(type({name}.from_pretrained({folder!r})).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "from transformers import AutoConfig, AutoProcessor, AutoImageProcessor"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("AutoConfig", "VidLLMConfig"),
        ("AutoProcessor", "VidLLMProcessor"),
        ("AutoImageProcessor", "VidLLMVideoFrameProcessor"),
        ("AutoModel", "VidLLMForConditionalGeneration"),
        ("AutoModelForImageTextToText", "VidLLMForConditionalGeneration"),
    ],
)
def test_auto_classes_know_us_after_our_import_alone(name, kind, first):
    folder = str(Path(vidllm.__file__).parent / "weights" / "tiny")
    done = run("-W", "ignore", "-c", f"{first}\n{AUTO.format(name=name, folder=folder)}")
    assert done.stdout.strip() == kind, done.stderr


def test_auto_classes_cost_nothing_before_a_checkpoint_is_read():
    code = "import sys, vidllm\nfrom transformers import AutoProcessor\nprint('vidllm.model' in sys.modules)"
    done = run("-W", "ignore", "-c", code)
    assert done.stdout.strip() == "False", done.stderr


def test_version_is_told_once():
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert declared and cited
    assert vidllm.__version__ == declared[1] == cited[1]


def test_public_names_are_listed_and_found():
    assert set(vidllm.__all__) <= set(dir(vidllm))
    assert vidllm.VidLLMConfig.model_type == "vidllm"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vidllm.nothing


def test_sizes_hold():
    done = run(str(ROOT / "scripts" / "ratchet.py"))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("source", "broken"),
    [
        ("def f():\n    pass\n", False),
        ("def f():\n" + "    x = 1\n" * 80, True),
        ("x = 1\n" * 501 + "def f():\n    pass\n", True),
        ("", True),
    ],
)
def test_the_ratchet_sees_what_is_too_long(tmp_path, source, broken):
    (tmp_path / "one.py").write_text(source, encoding="utf-8")
    assert run(str(ROOT / "scripts" / "ratchet.py"), str(tmp_path)).returncode == int(broken)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150
