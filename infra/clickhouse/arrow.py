"""pyarrow as an untyped module: it makes most of its names at run time, where no type checker finds them."""

from typing import Any, TypeAlias

import pyarrow
import pyarrow.compute

pa: Any = pyarrow
pc: Any = pyarrow.compute

Table: TypeAlias = Any
"""A `pyarrow.Table`."""

Array: TypeAlias = Any
"""A `pyarrow.Array`."""
