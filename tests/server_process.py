"""The real server in a process of its own, with fake summarizers.

    python tests/server_process.py --upstream http://127.0.0.1:9000/v1 --store chats.db

It prints its address once it can be asked, and ends on SIGTERM.
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

READY_SECONDS = 60
END_SECONDS = 30


@contextmanager
def serving(*arguments: str | Path) -> Iterator[str]:
    """Run this file; the server's address, with its version."""
    with _process([sys.executable, __file__, *map(str, arguments)]) as address:
        yield f"{address}/v1"


@contextmanager
def _process(command: Sequence[str]) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address.startswith("http://"), f"The server ended with {process.wait(READY_SECONDS)}."
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    from server_fakes import FakeModels
    from tomtat.server.app import create_app
    from tomtat.server.running import run
    from tomtat.server.settings import load_settings

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--budget", type=int, default=400)
    arguments = parser.parse_args()
    settings = load_settings(
        overrides={
            "port": 0,
            "store": arguments.store,
            "budget_tokens": arguments.budget,
            "upstreams": {"fake": {"url": arguments.upstream}},
        }
    )
    run(create_app(settings, models=FakeModels({"chats": None})), settings, lambda url: print(url, flush=True))


if __name__ == "__main__":
    main()
