"""What pyproject.toml allows: a lower and an upper bound each, and the lower ones are those that .ci/run installs."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
NOT_RUN = {"torch"}  # no CPU build of its lower end; .ci/lowest.txt says so


def bounds(requirement: Requirement) -> dict[str, Version]:
    return {clause.operator: Version(clause.version) for clause in requirement.specifier}


def project() -> dict[str, list[Requirement]]:
    """Requirements by extra; those of the package itself under the empty name."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": told["dependencies"], **told["optional-dependencies"]}
    return {name: [Requirement(line) for line in lines] for name, lines in groups.items()}


def test_every_dependency_has_a_lower_and_an_upper_bound():
    for name, requirements in project().items():
        for requirement in requirements:
            found = bounds(requirement)
            assert set(found) == {">=", "<"}, f"[{name}] {requirement}"
            assert found[">="] < found["<"], f"[{name}] {requirement}"


def test_a_dependency_has_one_range_in_all_extras():
    seen: dict[str, str] = {}
    for requirements in project().values():
        for requirement in requirements:
            assert seen.setdefault(requirement.name, str(requirement.specifier)) == str(requirement.specifier)


def test_the_lowest_versions_that_are_run_are_those_that_are_allowed():
    lines = (ROOT / ".ci" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = {r.name: bounds(r)["=="] for r in map(Requirement, (x for x in lines if x and not x.startswith("#")))}
    groups = project()
    wanted = {r.name: bounds(r)[">="] for r in (*groups[""], *groups["test"]) if r.name not in NOT_RUN}
    assert pins == wanted
