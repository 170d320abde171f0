"""The page in one file: closed, every text escaped; in a browser it draws, chooses, measures, fetches nothing."""

from __future__ import annotations

import base64
import json
import re
import struct

import numpy as np
import pytest
from browser import MISSING, Browser
from test_inventory import wall

from vidllm.export import export_scene
from vidllm.export.page import PageTexts, write_page

HOSTILE = "</script><script>window.broken=1</script><img src=x onerror='window.broken=1'>@SCENE@"
BOX = {"center": [4.0, 0.0, 0.0], "size": [0.5, 2.0, 2.0], "yaw": 0.0, "score": 0.5, "label": HOSTILE}
TEXTS = PageTexts(HOSTILE, (HOSTILE,), ((HOSTILE, HOSTILE),), 0.1)

BLACK = """const canvas = document.querySelector('canvas'), gl = canvas.getContext('webgl2');
const pixels = new Uint8Array(4 * canvas.width * canvas.height);
gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
let count = 0;
for (let i = 0; i < pixels.length; i += 4) count += !pixels[i] && !pixels[i + 1] && !pixels[i + 2];
return count;"""


def content(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="scene">(.*?)</script>', page)[1])


def test_the_page_holds_the_scene_and_escapes_texts(tmp_path):
    (path,) = export_scene(tmp_path, wall(), ["html"], [BOX], TEXTS)
    page = path.read_text()
    assert page.count("</script>") == 3 and "<img" not in page  # the page's own
    told = content(page)
    assert told["title"] == HOSTILE and told["transcript"] == [[HOSTILE, HOSTILE]]
    raw = base64.b64decode(told["points"]["xyz"])
    steps = np.array(struct.unpack(f"<{len(raw) // 2}H", raw)).reshape(-1, 3)
    points = np.array(told["points"]["low"]) + steps * told["points"]["step"]
    np.testing.assert_allclose(points, wall().points()[0], atol=1e-4)
    assert not re.search(r"""(src|href)=["']?https?:""", page)


def test_a_scene_without_points_is_a_page_too(tmp_path):
    write_page(tmp_path / "a.html", wall(0.0))
    assert content((tmp_path / "a.html").read_text())["points"]["xyz"] == ""


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_in_a_browser(tmp_path):
    around = {**BOX, "size": [0.6, 2.1, 2.0], "label": "b"}
    write_page(tmp_path / "a.html", wall(), boxes=[BOX, around], texts=TEXTS)
    with Browser(tmp_path / "profile") as browser:
        browser.open(tmp_path / "a.html")
        assert browser.run("return window.vidllm.points") == 2 * 40 * 40
        assert browser.run("return performance.getEntriesByType('resource').length") == 0
        assert browser.run("return window.broken") is None
        assert HOSTILE in browser.run("return document.querySelector('#things li').textContent")
        browser.run("document.querySelectorAll('#strip img')[0].click()")  # look through the first camera
        browser.click(480, 250)  # the middle of the view: the box stands ahead
        assert browser.run("return window.vidllm.chosen") == 0
        assert browser.run("return document.querySelectorAll('#things li.chosen').length") == 1
        first, second = browser.run("return [...document.querySelectorAll('#labels span')].map(s => s.style.top)")
        assert abs(float(first[:-2]) - float(second[:-2])) > 10  # one label above the other
        browser.run("document.getElementById('measure').click()")
        middle = browser.run("const v = document.getElementById('view'); return [v.clientWidth/2, v.clientHeight/2]")
        browser.click(round(middle[0]) - 100, round(middle[1]))
        browser.click(round(middle[0]) + 100, round(middle[1]))
        measured = browser.run("return window.vidllm.distance")
        # 200 pixels at the vertical field of view: 40 rows / focal length 20 is 90 degrees, and a tenth more is shown
        high = 2 * 4 * np.tan(np.radians(90 * 1.1 / 2))
        assert measured == pytest.approx(200 / (2 * middle[1]) * high, rel=0.1)
        assert "m (" in browser.run("return document.getElementById('measured').textContent")
        assert browser.run(BLACK) > 10_000  # the wall is drawn; the background is not black
