"""The served pages in a browser: upload, camera, progress, the scene, a streamed answer, boxes in scene and frames."""

from __future__ import annotations

import pytest
from browser import MISSING, Browser

from vidllm.answers import Answer, Box, Boxes
from vidllm.reconstruction import Scene

HOSTILE = "the <img src=x onerror='window.broken=1'> chair"
BOX = Box((2.0, 0.0, -0.5), (0.5, 0.5, 0.8), 0.2, 0.9)
FETCHED = "return performance.getEntriesByType('resource').every(e => e.name.startsWith(location.origin))"


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_in_a_browser(site, clip, tmp_path, monkeypatch):
    def ask(self, question, situation=None, most=64, heard=None):
        heard("two")
        return Answer("two chairs", [HOSTILE])

    monkeypatch.setattr(Scene, "ask", ask)
    monkeypatch.setattr(Scene, "ground", lambda self, text: Boxes([] if text == "nothing" else [BOX]))
    with Browser(tmp_path / "profile") as browser:

        def submit(text: str, button: str) -> None:
            browser.run(f"document.getElementById('question').value = {text!r}; "
                        f"document.querySelector('#asking button[name={button}]').click()")  # fmt: skip

        browser.open(site.address)
        bad = tmp_path / "bad.mp4"
        bad.write_bytes(b"nothing")
        browser.choose_file("#file", bad)
        browser.wait("document.querySelector('#state.error')")
        assert browser.run("return document.getElementById('state').textContent").startswith("bad.mp4: not a readable")
        browser.choose_file("#file", clip)
        browser.wait("window.vidllm && window.vidllm.ready")
        assert "/scenes/file-" in browser.run("return location.pathname")
        assert browser.run("return window.vidllm.points") > 1000
        before = browser.run("return document.querySelector('#strip img').src")
        submit("How many chairs are there?", "ask")
        browser.wait("document.querySelector('#chat .answer')?.textContent.startsWith('two chairs')")
        submit(HOSTILE, "find")
        browser.wait("document.querySelectorAll('#things li i').length === 1")
        assert HOSTILE in browser.run("return document.querySelector('#things li span').textContent")
        assert browser.run("return document.querySelectorAll('#labels [data-box]').length") == 1
        assert browser.run("return document.querySelector('#strip img').src") != before  # with the box drawn in
        browser.run("document.querySelector('#things li').click()")
        assert browser.run("return window.vidllm.chosen") == 0
        browser.screenshot(tmp_path / "scene.png")
        submit("nothing", "find")
        browser.wait("[...document.querySelectorAll('#chat .answer')].at(-1).textContent === 'no such object'")
        assert browser.run("return document.querySelectorAll('#labels [data-box]').length") == 0
        assert browser.run(FETCHED) and browser.run("return window.broken") is None
        assert browser.run("return document.querySelectorAll('#exports a').length") >= 10

        browser.open(site.address)
        browser.wait("document.querySelectorAll('#videos li').length >= 2")
        browser.run("document.getElementById('camera').click()")
        browser.wait("document.getElementById('live').currentTime > 1")
        browser.run("document.getElementById('camera').click()")
        browser.wait("window.vidllm && window.vidllm.ready")
        assert browser.run("return document.getElementById('title').textContent") == "camera.webm"
        assert browser.run(FETCHED)
