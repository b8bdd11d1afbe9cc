"""Import gradio in half the time.

While it is imported, gradio 6.31 parses the source of each of its components to renew the stubs that editors read, and
writes them into its own installation: more than a second, at every start, for nothing that we use. `without_stubs()`
leaves that out. Where gradio is imported already, or no longer does so, it changes nothing.
"""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType

MODULE, FUNCTION = "gradio.component_meta", "create_or_modify_pyi"


class _Loader(importlib.abc.Loader):
    """Loads the module as ever, then takes the one function out of its way."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        if callable(getattr(module, FUNCTION, None)):
            setattr(module, FUNCTION, lambda *_: None)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module, once."""

    def find_spec(self, name, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def without_stubs() -> None:
    """Have gradio, when it is imported, leave its stubs alone."""
    if "gradio" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
