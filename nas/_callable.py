"""Rooms that share their name with a public function: `nas.cost(arch)` beside `from nas.cost import Cost`.

Importing a submodule binds it in its parent, so whoever imports `nas.cost.operators` first makes `nas.cost` the module,
and a function of that name would come and go with the order of imports. Such a room is therefore a module that can be
called. Its `__init__.py` ends with

    sys.modules[__name__].__class__ = CallableRoom

which is the documented way to give a module special methods (Python reference, "Customizing module attribute access").
"""

from __future__ import annotations

from types import ModuleType
from typing import Any


class CallableRoom(ModuleType):
    """A room whose call is the public function of its name, found through the table in `nas/__init__.py`.

    The table and not the room says where the function lives: `nas.search(...)` runs the pipeline, which is below the
    room `search` and which that room must not import.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from nas import public

        return public(self.__name__.rpartition(".")[2])(*args, **kwargs)
