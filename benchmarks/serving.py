"""A server under load: requests held, their times, memory over many scenes, and what a killed decoder costs.

    python benchmarks/serving.py --scenes 500 --clients 8 --frames 2

Starts ``vidllm serve``, uploads so many different videos from several clients at once, asks one question of each, and
kills a decoder in every tenth video. The memory of scenes is bounded so that a tenth of them fits.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError, URLError

import numpy as np

from vidllm.evaluation.demo import CLIP

QUESTION = "How many chairs are there?"


class Server:
    """``vidllm serve`` in a process of its own."""

    def __init__(self, model: str | None, frames: int, memory_mb: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        options = ["--port", self.address.rsplit(":", 1)[1], "--frames", str(frames), "--memory-mb", str(memory_mb)]
        options += [] if model is None else ["--model", model]
        self.process = subprocess.Popen([sys.executable, "-m", "vidllm", "serve", *options])
        while True:
            try:
                self.call("/v1/models")
                return
            except URLError:
                time.sleep(0.5)

    def call(self, path: str, body: bytes | None = None, kind: str = "application/json") -> dict:
        """The JSON of an answer; where the server is busy, asked again after what it says."""
        request = urllib.request.Request(self.address + path, body, {"content-type": kind})
        while True:
            try:
                with urllib.request.urlopen(request, timeout=600) as answer:
                    return json.load(answer)
            except HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(float(error.headers["retry-after"]))

    def upload(self, content: bytes) -> str:
        """Its id."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        form = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
        return self.call("/v1/files", form, f"multipart/form-data; boundary={mark}")["id"]

    def ask(self, video: str) -> str:
        """An answer through /v1/chat/completions."""
        content = [{"type": "video_url", "video_url": {"url": video}}, {"type": "text", "text": QUESTION}]
        body = {"model": "vidllm", "messages": [{"role": "user", "content": content}]}
        said = self.call("/v1/chat/completions", json.dumps(body).encode())
        return said["choices"][0]["message"]["content"]

    def memory_mb(self) -> float:
        """Resident memory of the server, without its decoders."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def decoders(self) -> list[int]:
        """Processes of the third generation: server, fork server, decoder."""
        parent = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent[int(path.parent.name)] = int(path.read_text().rsplit(") ", 1)[1].split()[1])
            except OSError:
                continue
        children = {pid for pid, of in parent.items() if of == self.process.pid}
        return [pid for pid, of in parent.items() if of in children]


def kill_some(server: Server, share: float, stop: threading.Event, killed: list[int]) -> None:
    """Kill a decoder now and then."""
    rng, seen, last = np.random.default_rng(0), set(), False
    while not stop.wait(0.02):
        for pid in server.decoders():
            if pid not in seen:
                seen.add(pid)
                last = not last and rng.random() < share  # the second attempt is left alone
                if last:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder (default: the shipped model)")
    parser.add_argument("--video", type=Path, default=CLIP)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--memory-mb", type=int, default=64, help="of all scenes that are kept")
    parser.add_argument("--killed", type=float, default=0.1, help="share of decoders that are killed")
    options = parser.parse_args()
    clip, killed, stop = options.video.read_bytes(), [], threading.Event()
    server = Server(options.model, options.frames, options.memory_mb)
    times: list[float] = []
    memory: list[float] = []

    def one(number: int) -> str:
        # another file each time: readers skip a box "free" at the end
        content = io.BytesIO(clip + (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")).getvalue()
        video, begin = server.upload(content), time.monotonic()
        answer = server.ask(video)
        times.append(time.monotonic() - begin)
        memory.append(server.memory_mb())
        return answer

    try:
        first = one(-1 % 2**32)
        again = [time_of(lambda: server.ask(server.upload(clip))) for _ in range(20)][1:]
        times.clear()
        killer = threading.Thread(target=kill_some, args=(server, options.killed, stop, killed))
        killer.start()
        begin = time.monotonic()
        with ThreadPoolExecutor(options.clients) as pool:
            answers = list(pool.map(one, range(options.scenes)))
        seconds = time.monotonic() - begin
        stop.set()
        killer.join()
    finally:
        server.process.terminate()
        server.process.wait()
    tenth = max(1, len(memory) // 10)
    print(f"held            {len(answers)} of {options.scenes} requests from {options.clients} clients at once, "
          f"{sum(answer == first for answer in answers)} with the same answer; {len(killed)} decoders killed")
    print(f"a new video     p50 {np.percentile(times, 50):.2f} s, p99 {np.percentile(times, 99):.2f} s, "
          f"{options.scenes / seconds:.2f} a second")
    print(f"a known video   p50 {np.percentile(again, 50):.3f} s, p99 {np.percentile(again, 99):.3f} s, one client")
    early, late = np.median(memory[tenth : 2 * tenth]), np.median(memory[-tenth:])
    print(f"memory          {memory[0]:.0f} MB after the first scene, {early:.0f} MB in the second tenth, "
          f"{late:.0f} MB in the last, {max(memory):.0f} MB at most")


def time_of(act) -> float:
    """Seconds of a call."""
    begin = time.monotonic()
    act()
    return time.monotonic() - begin


if __name__ == "__main__":
    main()
