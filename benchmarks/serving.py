"""A server under load: requests held, their times, memory over many scenes, and what a killed decoder costs.

    python benchmarks/serving.py --scenes 500 --clients 8 --frames 2 --seconds 1500

Starts ``vidllm serve``, uploads so many different videos from several clients at once, asks one question of each, and
kills a decoder in every tenth video; what has not begun after so many seconds is left out, and said. Then 100 clients
upload one video each at the same time. The memory of scenes is bounded so that some of them fit.
"""

from __future__ import annotations

import argparse
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
from itertools import chain
from pathlib import Path
from urllib.error import HTTPError, URLError

import numpy as np
from own_process import memory

from vidllm.evaluation.demo import CLIP

QUESTION = "How many chairs are there?"


class Server:
    """``vidllm serve`` in a process of its own."""

    def __init__(self, model: str | None, frames: int, memory_mb: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        options = ["--port", self.address.rsplit(":", 1)[1], "--frames", str(frames), "--memory-mb", str(memory_mb),
                   "--no-refine"]  # fmt: skip
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
        return memory("VmRSS", self.process.pid) / 2**20

    def processes(self) -> list[list[int]]:
        """The server, its fork server and its decoders."""
        levels = [[self.process.pid]]
        for _ in range(2):
            levels.append([child for pid in levels[-1] for child in children(pid)])
        return levels

    def cpu_s(self) -> float:
        """Processor seconds of the server and of all decoders that have ended."""
        ticks = 0
        for pid in chain(*self.processes()[:2]):
            told = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
            ticks += sum(map(int, told[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Of all threads of a process."""
    found: list[int] = []
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, path.read_text().split())
    return found


def kill_some(server: Server, share: float, stop: threading.Event, killed: list[int]) -> None:
    """Kill a decoder now and then."""
    rng, seen, last = np.random.default_rng(0), set(), False
    while not stop.wait(0.05):
        for pid in server.processes()[2]:
            if pid not in seen:
                seen.add(pid)
                last = not last and rng.random() < share  # the second attempt is left alone
                if last:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)


def unlike(clip: bytes, number: int) -> bytes:
    """The clip as another file: readers skip a box "free" at the end."""
    return clip + (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")


def burst(server: Server, clip: bytes, clients: int) -> str:
    """So many clients upload at the same time; what became of that."""
    ready, told = threading.Barrier(clients), []

    def one(number: int) -> str:
        ready.wait()
        begin = time.monotonic()
        found = server.upload(unlike(clip, 2**40 + number))
        told.append(time.monotonic() - begin)
        return found

    with ThreadPoolExecutor(clients) as pool:
        found = set(pool.map(one, range(clients)))
    kept = sum(file["id"] in found for file in server.call("/v1/files")["data"])
    return (f"{len(found)} of {clients} kept as files of their own ({kept} listed), "
            f"p50 {np.percentile(told, 50):.2f} s, p99 {np.percentile(told, 99):.2f} s, "
            f"{server.memory_mb():.0f} MB after")  # fmt: skip


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
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which no scene is begun")
    options = parser.parse_args()
    clip, killed, stop = options.video.read_bytes(), [], threading.Event()
    server = Server(options.model, options.frames, options.memory_mb)
    times: list[float] = []
    memory: list[float] = []
    lost: list[str] = []

    def one(number: int) -> str | None:
        if time.monotonic() > end:
            return None
        begin = time.monotonic()
        try:
            answer = server.ask(server.upload(unlike(clip, number)))
        except (URLError, OSError) as error:
            lost.append(str(error))
            return ""
        times.append(time.monotonic() - begin)
        memory.append(server.memory_mb())
        return answer

    try:
        end = time.monotonic() + options.seconds
        first = one(2**32)
        again = [time_of(lambda: server.ask(server.upload(clip))) for _ in range(20)][1:]
        times.clear()
        killer = threading.Thread(target=kill_some, args=(server, options.killed, stop, killed))
        killer.start()
        begin, worked = time.monotonic(), server.cpu_s()
        with ThreadPoolExecutor(options.clients) as pool:
            answers = [answer for answer in pool.map(one, range(options.scenes)) if answer is not None]
        seconds, worked = time.monotonic() - begin, server.cpu_s() - worked
        stop.set()
        killer.join()
        at_once = burst(server, clip, 100)
    finally:
        server.process.terminate()
        server.process.wait()
    print(f"held            {len(answers) - len(lost)} of {len(answers)} requests from {options.clients} clients, "
          f"{sum(answer == first for answer in answers)} with the same answer; {len(killed)} decoders killed; "
          f"{options.scenes - len(answers)} not begun")
    print(f"a new video     p50 {np.percentile(times, 50):.2f} s, p99 {np.percentile(times, 99):.2f} s, "
          f"{len(times) / seconds:.2f} a second, {worked / max(len(times), 1):.2f} CPU s each")
    print(f"a known video   p50 {np.percentile(again, 50):.3f} s, p99 {np.percentile(again, 99):.3f} s, one client")
    print(f"uploads at once {at_once}")
    spread = [memory[round(at)] for at in np.linspace(0, len(memory) - 1, 11)]
    print(f"memory          {', '.join(f'{mb:.0f}' for mb in spread)} MB after 0, 10, ..., 100% of the scenes, "
          f"{max(memory):.0f} MB at most")
    for line in sorted(set(lost)):
        print(f"lost            {lost.count(line)}: {line}")


def time_of(act) -> float:
    """Seconds of a call."""
    begin = time.monotonic()
    act()
    return time.monotonic() - begin


if __name__ == "__main__":
    main()
