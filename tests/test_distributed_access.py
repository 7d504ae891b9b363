"""Clusters that refuse whoever searches, or are of another version: real heads, one line each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from journey import nas

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray"), pytest.mark.timeout(300)]

MINE, OTHER = "5" * 64, "6" * 64
# What a head of another Ray says of itself, on a real head: installing a second Ray takes minutes.
OF_ANOTHER_VERSION = """
import json, sys, ray
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
ray.init(address=sys.argv[1], log_to_driver=False)
where = {"namespace": b"cluster"}
about = json.loads(_internal_kv_get(b"CLUSTER_METADATA", **where))
_internal_kv_put(b"CLUSTER_METADATA", json.dumps(about | {"ray_version": "2.9.0"}), overwrite=True, **where)
"""


@contextmanager
def head(folder: Path, **environment: str) -> Iterator[str]:
    """The address of a head that lasts as long as the context, ended by its process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1", f"--port={port}",
        "--include-dashboard=false", "--disable-usage-stats",
    ]  # fmt: skip
    with (folder / "head.log").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | environment)
        try:
            for _ in range(600):
                assert child.poll() is None, (folder / "head.log").read_text()
                if "Ray runtime started" in (folder / "head.log").read_text():
                    break
                time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            child.terminate()
            child.wait(60)


def refused(folder: Path, address: str) -> str:
    """The line of a command that only looks for a device, on a cluster that has none."""
    begun = time.monotonic()
    done = nas("target", "add", "phone", "--ray", address, cwd=folder)
    assert done.code == 2, done.err
    assert time.monotonic() - begun < 60
    return done.last


def test_a_wrong_token_and_none_are_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no token of this user's
    with head(tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=MINE) as address:
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
        assert "it wants its token: export RAY_AUTH_MODE=token" in refused(tmp_path, address)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", OTHER)
        assert "it wants its token: export RAY_AUTH_MODE=token" in refused(tmp_path, address)
        monkeypatch.setenv("RAY_AUTH_TOKEN", MINE)
        assert "no node of the cluster offers 'device:phone'" in refused(tmp_path, address)


def test_a_cluster_of_another_version_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with head(tmp_path, RAY_AUTH_MODE="disabled") as address:
        subprocess.run([sys.executable, "-c", OF_ANOTHER_VERSION, address], check=True, capture_output=True, timeout=60)
        said = refused(tmp_path, address)
    assert "Version mismatch: The cluster was started with: Ray: 2.9.0" in said
    assert sys.version.split()[0] in said
