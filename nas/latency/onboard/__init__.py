"""What runs on the device that is measured: it times files of networks and says what machine it is.

It knows Python from 3.9 on, NumPy and the one runtime, and nothing of the rest of the project, so that all of it
travels as one file (`bundle`). Measuring on this machine uses the same modules.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_MAIN = "import sys\nfrom onboard.job import main\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # so that equal modules make equal bytes


def modules() -> dict[str, bytes]:
    """These modules by their names in a zip file."""
    return {f"onboard/{path.name}": path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))}


def bundle() -> bytes:
    """A zip file of these modules; `python FILE` runs `job.main`."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (modules() | {"__main__.py": _MAIN.encode()}).items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
    return packed.getvalue()
