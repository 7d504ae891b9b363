"""`python -m nas`, where a command's name cannot be given, such as to torchrun."""

from nas.cli import script

if __name__ == "__main__":
    script()
