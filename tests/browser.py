"""A headless Chromium through the WebDriver protocol (W3C), as far as the tests of pages need it."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--use-gl=angle",
         "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--window-size=1280,800",
         "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # fmt: skip
MISSING = next((f"{name} is not installed" for name in ("chromium", "chromedriver") if not shutil.which(name)), "")


class Browser:
    """A context manager; ``profile`` is an empty folder."""

    def __init__(self, profile: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.profile = profile

    def __enter__(self) -> Browser:
        self.driver = subprocess.Popen(["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL)
        chrome = {"args": [*FLAGS, f"--user-data-dir={self.profile}"], "binary": shutil.which("chromium")}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": chrome}}}
        for attempt in range(100):
            try:
                made = self._call("POST", "/session", wanted)
                break
            except OSError:
                if attempt == 99:
                    self.driver.kill()
                    raise
                time.sleep(0.2)
        self.session = f"/session/{made['sessionId']}"
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call("DELETE", self.session)
        finally:
            self.driver.kill()
            self.driver.wait()

    def open(self, page: Path | str) -> None:
        """Open a file and wait until its scene is there; or an address."""
        self._call("POST", f"{self.session}/url", {"url": page if isinstance(page, str) else page.resolve().as_uri()})
        if isinstance(page, Path):
            self.wait("window.vidllm && window.vidllm.ready")

    def wait(self, condition: str, seconds: float = 40) -> None:
        """Wait until JavaScript finds a condition true."""
        end = time.monotonic() + seconds
        while not self.run(f"return !!({condition})"):
            if time.monotonic() > end:
                shown = self.run("return document.body.innerText")
                raise TimeoutError(f"not so within {seconds} s: {condition}; the page says: {shown}")
            time.sleep(0.2)

    def choose_file(self, selector: str, file: Path) -> None:
        """Give a file to an input."""
        found = self._call("POST", f"{self.session}/element", {"using": "css selector", "value": selector})
        (name,) = found.values()
        self._call("POST", f"{self.session}/element/{name}/value", {"text": str(file.resolve())})

    def run(self, code: str) -> Any:
        """What JavaScript returns."""
        return self._call("POST", f"{self.session}/execute/sync", {"script": code, "args": []})

    def click(self, x: int, y: int) -> None:
        """Press and release the left button at pixels of the window."""
        moves = [{"type": "pointerMove", "x": x, "y": y}, {"type": "pointerDown", "button": 0},
                 {"type": "pointerUp", "button": 0}]  # fmt: skip
        mouse = {"type": "pointer", "id": "mouse", "actions": moves}
        self._call("POST", f"{self.session}/actions", {"actions": [mouse]})

    def screenshot(self, path: Path) -> None:
        """Write what is seen as PNG."""
        path.write_bytes(base64.b64decode(self._call("GET", f"{self.session}/screenshot")))

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        sent = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", sent, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
