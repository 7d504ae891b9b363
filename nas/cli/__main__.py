"""`python -m nas.cli`."""

from nas.cli import script

script()
