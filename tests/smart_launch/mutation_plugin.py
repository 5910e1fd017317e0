"""Switching one defence of `smart_launch` off, by changing a module's source as it is imported."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

from tests.smart_launch.mutation_table import Mutation

#: Folder of a stack that runs already; else each test run starts its own.
RUNNING_STACK = "SMART_TEST_STACK"


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with a changed source, past any compiled one."""

    def __init__(self, name: str, path: str, mutation: Mutation) -> None:
        super().__init__(name, path)
        self._mutation = mutation

    def get_code(self, fullname: str) -> object:  # type: ignore[override]  # the standard library's stubs are wider
        source = self._mutation.applied(self.get_data(self.path).decode("utf-8"))
        return compile(source, self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutation: Mutation) -> None:
        self._mutation = mutation
        self._name = f"smart_launch.{mutation.module}"

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        if found is None or found.origin is None:
            return None
        loader = _Loader(fullname, found.origin, self._mutation)
        return importlib.util.spec_from_file_location(fullname, found.origin, loader=loader)


def switch_off(mutation: Mutation) -> None:
    """Switch a defence off for what is imported from now on.

    Raises
    ------
    RuntimeError
        It is too late: `smart_launch` has been imported.
    """
    if any(name.partition(".")[0] == "smart_launch" for name in sys.modules):
        raise RuntimeError("smart_launch was imported before its defence could be switched off")
    sys.meta_path.insert(0, _Finder(mutation))
