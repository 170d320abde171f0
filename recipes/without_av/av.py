"""Stands in for PyAV where no video is read: whatever is imported from it is there, and is never used."""

import sys
import types
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec


class StandIn(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {})


class Finder(MetaPathFinder, Loader):
    def find_spec(self, name, path, target=None):
        return ModuleSpec(name, self, is_package=True) if name.startswith("av.") else None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


__path__ = []
sys.meta_path.append(Finder())
sys.modules[__name__].__class__ = StandIn
