"""Run directories: writing, resuming and reading them, and asking their front."""

from nas.runs.journal import Journal, atomic_path, read_json, read_rows, write_atomic, write_json
from nas.runs.rows import FINETUNED, INHERITED, is_searched, weights_of
from nas.runs.run import Run, load_run
from nas.runs.writer import RunDir, check_folder

__all__ = [
    "FINETUNED",
    "INHERITED",
    "Journal",
    "Run",
    "RunDir",
    "atomic_path",
    "check_folder",
    "is_searched",
    "load_run",
    "read_json",
    "read_rows",
    "weights_of",
    "write_atomic",
    "write_json",
]
