"""A connection to a Ray cluster: one that is started here, one that runs on this machine, or one at an address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.errors import InputError, first_line

_LISTENS_S, _ANSWERS_S = 5.0, 30.0  # Ray itself gives up after minutes
_TELEMETRY = "RAY_USAGE_STATS_ENABLED"
_NO_TOKEN = ("InvalidAuthToken", "AuthenticationError")
# A cluster is first spoken to by a process that can be ended: what listens there may be something else.
_PROBE = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
except BaseException as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@contextmanager
def cluster(address: str, cpus: int | None = None) -> Iterator[None]:
    """Connected to the cluster at `address` while the context lasts.

    `local`: one that is started here, with so many CPUs (None: all), and ends with it; `auto`: the one that runs on
    this machine, or that RAY_ADDRESS names; else HOST:PORT, or ray://HOST:PORT. A connection that was there before is
    used and kept. Raises `InputError` within half a minute where no cluster of this version of Ray and Python answers,
    or one that does not know this user's token."""
    os.environ.setdefault(_TELEMETRY, "0")
    import ray

    if ray.is_initialized():
        yield
        return
    local: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False} if address == "local" else {}
    if address != "local":
        _check_answers(address)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _unanswered(address, first_line(error)) from None
    try:
        yield
    finally:
        ray.shutdown()


def access_notes() -> list[str]:
    """How this user would meet a cluster, a line each: the version of Ray, the address, the token."""
    from importlib.metadata import version

    mode, address = os.environ.get("RAY_AUTH_MODE", "disabled"), os.environ.get("RAY_ADDRESS")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    where = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(path) if path.is_file() else None
    notes = [f"ray {version('ray')}, which every node must have, and one version of Python"]
    notes.append(f"RAY_ADDRESS is {address}, which --ray auto takes" if address else "--ray auto: of this machine")
    if mode == "token" and where:
        notes.append(f"token authentication is on, the token is in {where}")
    elif mode == "token":
        notes.append(
            f"token authentication is on, and there is no token: put the cluster's into {path}, or start a head with "
            "`ray start --head`, which makes one"
        )
    elif where:
        notes.append(
            f"a token is in {where}, but RAY_AUTH_MODE is {mode}: a head that is started here asks for it; other nodes "
            "and whoever searches must export RAY_AUTH_MODE=token and have it"
        )
    else:
        notes.append("token authentication is off: whoever reaches a cluster's port runs code on it")
    return notes


def capacity(gpus: bool = False) -> int:
    """CPUs, or GPUs, of the cluster that this process is connected to: at least 1, for one that has yet to grow."""
    import ray

    resources: Any = ray.cluster_resources  # not typed there
    return max(1, int(resources().get("GPU" if gpus else "CPU", 0)))


def _check_answers(address: str) -> None:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon and address != "auto":
        raise _unanswered(address, "not an address")
    if colon:
        try:
            socket.create_connection((host, int(port)), timeout=_LISTENS_S).close()
        except (OSError, ValueError, OverflowError) as error:
            raise _unanswered(address, str(error)) from None
    if reason := _refusal(address):
        raise _unanswered(address, reason)


def _refusal(address: str) -> str:
    """Why a process cannot connect, '' where it can."""
    command = [sys.executable, "-c", _PROBE, address]
    lines, wants_token = [], False
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        limit = threading.Timer(_ANSWERS_S, child.kill)
        limit.start()
        for line in child.stderr or ():
            lines.append(line.strip())
            if any(mark in line for mark in _NO_TOKEN):
                wants_token = True
                child.kill()  # Ray would try again for half a minute
        limit.cancel()
    if wants_token:
        return "it wants its token: export RAY_AUTH_MODE=token, and have it in RAY_AUTH_TOKEN or ~/.ray/auth_token"
    if child.returncode == -signal.SIGKILL:
        return f"no answer within {_ANSWERS_S:.0f} s; what listens there may not be Ray"
    return _reason(list(filter(None, lines))) if child.returncode else ""


def _reason(lines: list[str]) -> str:
    """The line that says why, of all that Ray prints."""
    told = [i for i, line in enumerate(lines) if line.split(":")[0].endswith(("Error", "Exception"))]
    if not told:
        return lines[-1] if lines else "the connection failed"
    first = lines[told[-1]].partition(": ")[2]
    following = lines[told[-1] + 1 : told[-1] + 3] if first.startswith("Version mismatch") else []
    return " ".join([first, *following])[:300]


def _unanswered(address: str, reason: str) -> InputError:
    return InputError(f"no Ray cluster answers at {address!r} ({reason}); give local, auto, or HOST:PORT")
