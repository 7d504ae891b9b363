"""Latencies that others published, as folders that say where they are from, with features of our vocabulary."""

from nas.latency.imports.folder import ImportedTable, read_import
from nas.latency.imports.importing import FORMATS, import_table
from nas.latency.imports.nn_meter_vit import block_keys, block_operators
from nas.latency.imports.rows import COLUMNS, per_call

__all__ = [
    "COLUMNS",
    "FORMATS",
    "ImportedTable",
    "block_keys",
    "block_operators",
    "import_table",
    "per_call",
    "read_import",
]
