"""NNI, made ready to be imported."""

from __future__ import annotations

import importlib
import sys

from nas.errors import InputError, first_line
from nas.export.optional import needed


def prepare() -> None:
    """See that the parts of NNI that are used here can be imported, without a deep learning framework of its choice.
    InputError where it is not installed, or beside packages that it does not work with."""
    needed("nni", "nni")
    try:
        import nni

        if "nni.nas.evaluator" not in sys.modules:  # the first to ask for the framework; else it was chosen
            nni.set_default_framework("none")
        importlib.import_module("nni.nas.strategy")
    except Exception as error:
        raise InputError(
            f"nni is installed and cannot be imported ({first_line(error)}); it needs an environment of its own, "
            "without constraints.txt: pip install 'paretovit[nni]'"
        ) from error
