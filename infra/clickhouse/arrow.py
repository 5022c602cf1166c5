"""pyarrow as an untyped module (it makes most of its names at run time, where no type checker finds them), and
without pandas: pyarrow looks for it once, at its first array, and that would cost most of a second and 50 MB.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeAlias

import pyarrow
import pyarrow.compute

pa: Any = pyarrow
pc: Any = pyarrow.compute

Table: TypeAlias = Any
"""A `pyarrow.Table`."""

Array: TypeAlias = Any
"""A `pyarrow.Array`."""


class _NoPandas(MetaPathFinder):
    """Says that pandas is not installed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See `importlib`."""
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not wanted here", name=name)
        return None


def _look_for_pandas_in_vain() -> None:
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)


_look_for_pandas_in_vain()
