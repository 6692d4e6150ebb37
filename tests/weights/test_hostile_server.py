"""A server that lies, stalls or never ends: one line, within bounds, and nothing half-written in the cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from genepool.weights import remote, waiting

pytest.importorskip("aiohttp")
MODEL = "/m/model.safetensors"


class _Server(BaseHTTPRequestHandler):
    """Answers with what the test says: headers, and the pieces of the body; None waits until the test is over."""

    says: dict[str, tuple[dict[str, str], Callable[[], Iterator[bytes | None]]]]
    over: threading.Event

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        if (body := self._head()) is None:
            return
        try:
            for piece in body():
                if piece is None:
                    self.over.wait()
                    return
                self.wfile.write(piece)
        except OSError:
            # The reader has had enough, which is what is tested.
            return

    def _head(self) -> Callable[[], Iterator[bytes | None]] | None:
        headers, body = self.says.get(self.path, (None, None))
        if headers is None:
            self.send_error(404)
            return None
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        return body

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    over = threading.Event()
    kind = type("Server", (_Server,), {"says": {}, "over": over})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def start(says: dict[str, Any]) -> str:
        kind.says = says
        return f"http://127.0.0.1:{server.server_address[1]}/m"

    yield start
    over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def _endless() -> Iterator[bytes | None]:
    while True:
        yield b"x" * 65536


def _stalling() -> Iterator[bytes | None]:
    yield b"x" * 10
    yield None


def _some() -> Iterator[bytes | None]:
    yield b"x" * 10


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({}, _endless, "has no size and does not end after 1,000,000 bytes"),
        ({"Content-Length": "2000000"}, _some, "has 2,000,000 bytes, expected at most 1,000,000"),
        ({"Content-Length": str(10**30)}, _some, ""),
        ({"Content-Length": "-5"}, _some, ""),
        ({"Content-Length": "abc"}, _some, ""),
        ({"Content-Length": "1000"}, _some, ""),
        ({"Content-Length": "1000"}, _stalling, "has sent nothing for"),
        ({}, _stalling, "has sent nothing for"),
        ({"Content-Encoding": "gzip"}, _some, ""),
    ],
    ids=["endless", "large", "huge", "negative", "no number", "short", "stalls", "stalls without size", "zip"],
)
def test_a_hostile_server_gets_one_line(
    headers: dict[str, str], body: Any, said: str, serve: Callable[..., str], cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(remote, "_MOST_OF_WEIGHTS", 1_000_000)
    monkeypatch.setattr(waiting, "TOLD_AFTER", 0.1)
    monkeypatch.setattr(waiting, "AT_MOST", 0.3)
    answer = cli("inspect", serve({MODEL: (headers, body)}), "--quiet")
    assert (answer.code, answer.err.count("error: "), answer.err.count("\n")) == (2, 1, 1), answer.err
    assert said in answer.err
    cache = remote.cache_folder()
    whole = [path for path in cache.rglob("*") if path.is_file() and path.name == "model.safetensors"]
    assert not whole
    assert sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) < 3_000_000


def test_waiting_is_told(serve: Callable[..., str], cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "TOLD_AFTER", 0.1)
    monkeypatch.setattr(waiting, "AT_MOST", 0.5)
    answer = cli("inspect", serve({MODEL: ({"Content-Length": "1000"}, _stalling)}))
    assert "note: http://127.0.0.1" in answer.err
    assert "Ctrl-C ends the waiting" in answer.err


def test_a_config_is_no_model(
    serve: Callable[..., str], cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What lies beside weights is bounded by what such files hold, not by what weights may."""
    monkeypatch.setattr(remote, "MOST_BYTES", 1000)
    config = ({"Content-Length": "1001"}, _some)
    answer = cli("inspect", serve({MODEL: ({"Content-Length": "10"}, _some), "/m/config.json": config}), "--quiet")
    assert answer.code == 2
    assert "config.json: has 1,001 bytes, expected at most 1,000" in answer.err
