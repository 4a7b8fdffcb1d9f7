"""A PostgreSQL server for tests: its own data folder, a free port on loopback, ended with the tests.

with running() as url: ...
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "tomtat"


def binaries() -> Path:
    """The folder with initdb and postgres; installed once where that is possible, else the test is skipped."""
    found = _binaries()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", "postgresql"], capture_output=True, timeout=600)
        found = _binaries()
    if found is None:
        pytest.skip("PostgreSQL is not installed: no initdb on PATH, beside pg_config or below /usr/lib/postgresql")
    return found


def _binaries() -> Path | None:
    folders = [Path(path).parent for path in [shutil.which("initdb")] if path]
    if config := shutil.which("pg_config"):
        folders.append(Path(subprocess.run([config, "--bindir"], capture_output=True, text=True).stdout.strip()))
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


@contextmanager
def running() -> Iterator[str]:
    """The server's address, without a database."""
    programs = binaries()
    # Not below pytest's folders, which other users can't enter: PostgreSQL refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="tomtat-postgres-"))
    run_as = {}
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        run_as = {"user": "postgres", "group": "postgres", "extra_groups": []}
    data, log = folder / "data", (folder / "log").open("w")
    try:
        # Log segments of 1 MB: a limit on file sizes of a few MB is the tables' then, and not the log's (see `fill_disk`).
        initdb = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            USER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--wal-segsize=1",
            "-N",
        ]
        subprocess.run(initdb, check=True, stdout=log, stderr=log, cwd=folder, **run_as)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # Without fsync: tests kill clients, never the machine.
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": folder,
            "fsync": "off",
            "max_connections": 300,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-p", str(port), *options], stdout=log, stderr=log, cwd=folder, **run_as
        )
        try:
            _wait(server, port, folder / "log")
            yield f"postgresql://{USER}@127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGINT)  # PostgreSQL's "fast": clients are let go, not waited for
            server.wait(60)
    finally:
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: subprocess.Popen, port: int, log: Path) -> None:
    import psycopg

    for _ in range(300):
        try:
            psycopg.connect(host="127.0.0.1", port=port, user=USER, dbname="postgres").close()
        except psycopg.OperationalError:
            if server.poll() is not None:
                break
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}")
