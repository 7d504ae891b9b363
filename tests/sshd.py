"""A real sshd on the loopback, with keys of its own, that lets this user in."""

from __future__ import annotations

import contextlib
import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sshd:
    """host: what the ssh config file knows it as."""

    host: str
    config: Path
    process: subprocess.Popen[bytes]


def find_sshd() -> str | None:
    """sshd wants to be called by its whole path."""
    return shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin") or shutil.which("sshd")


@contextlib.contextmanager
def serving(folder: Path, home: Path | None = None) -> Iterator[Sshd]:
    """Keys, files and logs are in the folder; so is the home of who logs in, unless one that exists is given."""
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_text((folder / "user_key.pub").read_text())
    port = free_port()
    if home is None:
        home = folder / "home"
        home.mkdir()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized\n"
        f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile {folder}/pid\nSetEnv HOME={home}\n"
    )
    host, public = "board", (folder / "host_key.pub").read_text()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {public}")
    config = folder / "ssh_config"
    config.write_text(
        f"Host {host}\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n  IdentitiesOnly yes\n"
        f"  IdentityFile {folder}/user_key\n  UserKnownHostsFile {folder}/known\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # where root's sshd separates privileges
    process = subprocess.Popen(
        [str(find_sshd()), "-D", "-e", "-f", folder / "sshd_config"], stderr=(folder / "sshd.log").open("wb")
    )
    try:
        wait_for(port, process, folder / "sshd.log")
        yield Sshd(host, config, process)
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            raise AssertionError(log.read_text())
        time.sleep(0.1)
    raise AssertionError("sshd does not listen")
