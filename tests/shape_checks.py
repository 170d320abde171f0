"""Checks the shape annotations of imported packages at run time: jaxtyping with beartype.

Only functions and dataclasses whose annotations have shapes are checked. jaxtyping's own import hook decorates all
others as well, which finds what mypy finds and takes a third of the time of the tests.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import is_dataclass
from functools import cache, wraps
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from beartype import beartype
from jaxtyping import jaxtyped


def check_shapes(*packages: str) -> None:
    """Check what is imported of these packages from now on."""
    sys.meta_path.insert(0, _Finder(packages))


def checked(kind: Any) -> Any:
    """The function or dataclass, which raises where a call does not fit its annotations."""
    if isinstance(kind, type):
        if is_dataclass(kind) and "__init__" in vars(kind):
            kind.__init__ = checked(kind.__init__)
        return kind
    inner = cache(lambda: beartype(kind))  # written at the first call: most are never called

    @wraps(kind)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jaxtyped("context"):  # an axis has one length within a call
            return inner()(*args, **kwargs)

    return call


class _Finder:
    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.split(".")[0] in self.packages else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Compiles the source with decorators; files of bytecode, which have none, are neither read nor written."""

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["_checked"] = checked
        super().exec_module(module)

    def get_code(self, name: str) -> CodeType:
        path = self.get_filename(name)
        tree = _Decorator().visit(ast.parse(self.get_data(path), path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _Decorator(ast.NodeTransformer):
    """Decorates the functions and classes of a module whose annotations have shapes."""

    def __init__(self) -> None:
        self.shaped: set[str] = set()  # the module's names for arrays of a shape

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if node.module == "jaxtyping":
            self.shaped |= {name.asname or name.name for name in node.names}
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        if self._is_shaped(node.value):  # such as Poses = Float[np.ndarray, "_ 4 4"]
            self.shaped |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        arguments = (part.annotation for part in ast.walk(node.args) if isinstance(part, ast.arg))
        if any(map(self._is_shaped, (node.returns, *arguments))):
            node.decorator_list.append(ast.Name("_checked", ast.Load()))  # below property and cache
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        if any(self._is_shaped(part.annotation) for part in node.body if isinstance(part, ast.AnnAssign)):
            node.decorator_list.insert(0, ast.Name("_checked", ast.Load()))  # above dataclass
        return node

    def _is_shaped(self, expression: ast.expr | None) -> bool:
        parts = () if expression is None else ast.walk(expression)
        return any(isinstance(part, ast.Name) and part.id in self.shaped for part in parts)
