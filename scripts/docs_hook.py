"""Hooks of mkdocs. A line ``::: command ask`` in a page becomes the output of ``vidllm ask --help``."""

import os
import re
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"
COMMAND = re.compile(r"^::: command(?P<words>( [\w-]+)*)$", re.MULTILINE)
ROLE = re.compile(r":(class|meth|func|mod):(?=<code)")  # of Sphinx, in docstrings


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the help texts in their places; CalledProcessError where a command has none."""
    return COMMAND.sub(lambda found: help_of(found["words"].split()), markdown)


def on_page_content(html: str, **_: object) -> str:
    """Remove the roles in front of names."""
    return ROLE.sub("", html)


def help_of(words: list[str]) -> str:
    """The help text of a command as a code block, at most 100 characters wide."""
    environment = {**os.environ, "PYTHONPATH": str(SRC), "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-m", "vidllm", *words, "--help"], env=environment, check=True,
                          capture_output=True, text=True, encoding="utf-8")  # fmt: skip
    return f"```text\n{done.stdout.strip()}\n```"
