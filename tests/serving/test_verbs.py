"""vidllm serve and vidllm mcp: what is told before anything is served."""

from __future__ import annotations

import builtins
import sys

import pytest

from vidllm.cli import main, read_verb


@pytest.mark.parametrize(("verb", "missing", "extra"), [
    (["serve"], "fastapi", "serve"), (["serve"], "python_multipart", "serve"), (["mcp"], "mcp", "mcp"),
])  # fmt: skip
def test_an_extra_that_is_missing_is_named(capsys, monkeypatch, verb, missing, extra):
    real = builtins.__import__

    def without(name, *rest, **options):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *rest, **options)

    for name in [name for name in sys.modules if name in ("vidllm.serving.web", "vidllm.serving.agents")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    assert main(verb) == 2
    assert capsys.readouterr().err == (f"vidllm: error: this needs {missing}, which is not installed: "
                                       f"pip install 'vidllm[{extra}]'\n")  # fmt: skip


@pytest.mark.parametrize(("options", "text"), [
    (["--port", "70000"], "cannot listen on port 70000"),
    (["--host", "203.0.113.1", "--port", "0"], "cannot listen on 203.0.113.1"),
    (["--frames", "0"], "expected at least 1"),
    (["--json"], "--json: no effect here"),
    (["/nowhere.mp4", "--port", "0"], "/nowhere.mp4: no such file or folder"),
])  # fmt: skip
def test_wrong_options_are_one_line(capsys, options, text):
    assert main(["serve", *options]) == 2
    told = capsys.readouterr().err
    assert text in told and len(told.splitlines()) == 1


@pytest.mark.parametrize(("command", "refines"), [
    (["serve"], True), (["mcp"], True), (["serve", "--no-refine"], False),
])  # fmt: skip
def test_a_served_scene_is_refined_unless_told_otherwise(model, clip, command, refines):
    with read_verb([*command, "--model", model.model.name_or_path]).core() as core:
        agree = core.submit(core.local(str(clip)), lambda scene: scene.frames_agree).result(240)
    assert (agree is not None) == refines
