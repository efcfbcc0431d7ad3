"""A run at work in a browser: its page, made anew as rounds and attacks finish, on the loopback alone.

A run is its owner's alone, but the loopback is open to all people of a machine: the address holds a secret. Requests
under another host name are refused, since any page may have its own name point here (DNS rebinding). Nothing is read
from the disk but the run.
"""

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from experiments.run.watch import State
from experiments.show.report.live import live_page
from experiments.show.report.page import Live
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder

HOST = "127.0.0.1"
LEAST = 2.0  # seconds between two pages
SHARE = 10  # a page is made again after so many times the time that it took: the run needs the cores
READER = 3.0  # seconds since the last question after which nobody is reading; a page at work asks every second
LINGER = 30.0  # seconds that readers have to load the end of a run
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LivePage:
    """The page of one run. `update` is for one thread, all else for any."""

    def __init__(self, run: RunFolder, state: State) -> None:
        self.run = run
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._state, self._number, self._seen = state, 1, _progress(state)
        self._next = 0.0  # when another page may be made
        self._asked = float("-inf")
        self._made: tuple[int, bytes] = (0, b"")

    def update(self, state: State) -> None:
        """Take note of what the run is doing; there is another page if it has come further."""
        ended = state.state != "running"
        with self._lock:
            self._state = state
            if _progress(state) != self._seen and (ended or time.monotonic() >= self._next):
                self._seen, self._number = _progress(state), self._number + 1

    def news(self) -> bytes:
        """What the script of the page asks for, as JSON: what to say, and the token of the page as it is now."""
        with self._lock:
            self._asked = time.monotonic()
            return json.dumps({"said": sentence(self._state), "token": str(self._number)}).encode()

    def html(self) -> bytes:
        """The page; once the run has finished, its report."""
        with self._making:
            with self._lock:
                state, number = self._state, self._number
            if state.state == "finished":
                return self.run.report.read_bytes()
            if self._made[0] != number:
                begun = time.monotonic()
                token = str(number) if state.state == "running" else ""
                self._made = number, live_page(self.run, Live(sentence(state), token)).encode()
                took = time.monotonic() - begun
                with self._lock:
                    self._next = time.monotonic() + max(LEAST, SHARE * took)
            return self._made[1]

    def linger(self) -> None:
        """Wait until whoever has the page open has loaded the end of the run: that page asks no more."""
        deadline = time.monotonic() + LINGER
        while time.monotonic() < min(deadline, self._asked + READER):
            time.sleep(0.1)


def sentence(state: State) -> str:
    """What a run is doing."""
    done = f"{state.rounds_done} of {state.rounds} rounds trained"
    if state.jobs:
        done += f", {state.done} of {state.jobs} attack jobs done"
        done += f", {state.failed} failed" if state.failed else ""
    if state.state == "failed":
        return f"Failed ({done}): {state.failure}"
    now = "; leakage is being measured" if state.measuring else ""
    return f"{state.state.capitalize()}: {done}{now}."


@contextmanager
def served(page: LivePage, port: int) -> Iterator[str]:
    """Serve `page` beside the block; the address, secret included. `port` 0: any that is free.

    Raises ConfigError where the port cannot be had.
    """
    try:
        server = _Server(page, port)
    except OSError as error:
        raise ConfigError(
            f"port {port} of {HOST} cannot be had ({error.strerror}); give another --port, or none for a free one"
        ) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}{server.path}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a browser may keep its connection open

    def __init__(self, page: LivePage, port: int) -> None:
        self.page, self.path = page, f"/{secrets.token_urlsafe(16)}/"
        super().__init__((HOST, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10  # seconds for a request to arrive
    server_version, sys_version = "fl-sim", ""

    def do_GET(self) -> None:
        port, path = self.server.server_port, self.server.path
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self._answer(421, "text/plain", b"This page is for this machine alone.\n")
        elif secrets.compare_digest(self.path.encode(), path.encode()):
            self._answer(200, "text/html", self.server.page.html())
        elif secrets.compare_digest(self.path.encode(), f"{path}state".encode()):
            self._answer(200, "application/json", self.server.page.news())
        else:
            self._answer(404, "text/plain", b"There is one page here, under the address that fl-sim watch printed.\n")

    def log_message(self, *arguments: Any) -> None:
        """The terminal is for the run."""

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": len(body), **HEADERS}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


def _progress(state: State) -> tuple[Any, ...]:
    """What a page shows of a state."""
    return state.state, state.rounds_done, state.done, state.failed, state.measuring
