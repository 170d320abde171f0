"""The package as a whole: a cheap import, one version, its structure held by scripts/house.py."""

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


def test_a_question_to_the_shipped_model_imports_no_transformers():
    """Nor what else takes seconds to import."""
    code = (
        "import sys; from vidllm.cli import main\n"
        "assert main(['ask', 'examples/room.mp4', 'How many chairs are there?', '--frames', '2']) == 0\n"
        "print(sorted({'transformers', 'scipy', 'sympy', 'torch._dynamo', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_scoring_a_file_imports_no_torch(tmp_path):
    (tmp_path / "said.json").write_text('[{"scene_id": "s", "question_id": "q", "answer_top10": ["red"]}]')
    (tmp_path / "true.json").write_text(
        '[{"scene_id": "s", "question_id": "q", "question": "what colour?", "answers": ["red"], "object_ids": [1], '
        '"object_names": ["chair"]}]')  # fmt: skip
    files = [str(tmp_path / name) for name in ("said.json", "true.json")]
    code = (
        "import sys; from vidllm.cli import main\n"
        f"assert main(['eval', 'scanqa', '--predictions', {files[0]!r}, '--references', {files[1]!r}]) == 0\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = run("-c", code)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


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


def test_the_structure_holds():
    done = run(str(ROOT / "scripts" / "house.py"))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("sources", "broken"),
    [
        ({"vidllm/scene.py": "def f(a, b, c, d, e, f, g):\n    pass\n", "vidllm/io/a.py": ""}, ""),
        ({"vidllm/a.py": "def f(a, b, c, d, e, f, g, *, h):\n    pass\n"}, "vidllm.a:f (8)"),
        ({"vidllm/a.py": "x = 1\n" * 501}, "vidllm.a (501)"),
        ({"vidllm/a.py": "import vidllm.b\n", "vidllm/b.py": "import vidllm.a\n"}, "vidllm.a vidllm.b"),
        ({"vidllm/io/a.py": "def f():\n    import vidllm.scene\n", "vidllm/scene.py": ""}, "io.a -> vidllm.scene"),
    ],
)
def test_a_broken_bound_is_found(tmp_path, sources, broken):
    for name, source in sources.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    done = run(str(ROOT / "scripts" / "house.py"), str(tmp_path))
    assert done.returncode == int(bool(broken)) and (not broken or f"{broken}" in done.stdout.split("NEW: ", 1)[1])


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_collection_of_garbage_stops_for_the_import_of_torch_only():
    program = """
import gc, sys
from vidllm.cli.reading import first_imports
with first_imports():
    assert not gc.isenabled()
assert gc.isenabled() and gc.get_freeze_count() > 0
gc.unfreeze()
sys.modules["torch"] = object()
with first_imports():
    assert gc.isenabled()
assert gc.get_freeze_count() == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True)
