"""README and docs: every command is one that the real parser takes, and every page is in the site."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from test_recipes import parsed

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|&& |-m )(vidllm .*)$")


def commands(page: Path) -> list[str]:
    """The ``vidllm`` commands in the code blocks of a page, without comments; continued lines are one command."""
    lines = "".join(BLOCK.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ").splitlines()
    return [found[1] for line in lines if (found := COMMAND.search(line.strip().removesuffix("&").strip()))]


def words(command: str) -> list[str]:
    """The words of a command. Optional parts are taken, of alternatives the first, and ``$x`` stands for a value."""
    text = re.sub(r"\s+#.*$", "", command).replace("$task", "scanqa")
    text = re.sub(r"[\[\]]", "", text).replace(" ...", "")
    return [re.split(r"\|(?=\w)", word)[0] for word in shlex.split(text)][1:]


def number(word: str) -> str:
    """A value for a placeholder that stands for a number."""
    return {"X,Y,Z": "1,2,0.5", "N": "2"}.get(word, word)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_understood(page: Path) -> None:
    for command in commands(page):
        try:
            parsed([number(word) for word in words(command)])
        except ValueError as error:
            pytest.fail(f"{page.name}: {command}: {error}")


def test_the_readme_has_commands() -> None:
    assert len(commands(ROOT / "README.md")) > 15


@pytest.mark.parametrize("folder", ["examples", "benchmarks", "recipes", "integrations", "scripts"])
def test_what_scripts_import_exists(folder: str) -> None:
    for script in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("vidllm"):
                module = importlib.import_module(str(node.module))
                for name in (alias.name for alias in node.names):
                    assert hasattr(module, name) or find_spec(f"{node.module}.{name}"), f"{script.name}: {name}"


def test_every_page_is_in_the_navigation() -> None:
    names = re.findall(r"[\w/]+\.md", str(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(names) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_links_of_the_readme_lead_to_files() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (ROOT / target).exists(), target
