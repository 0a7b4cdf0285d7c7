"""A headless Chromium driven over the WebDriver protocol, with nothing but the standard library."""

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# An address of this machine is never to be asked from a proxy.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Browser:
    """One page."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, url: str) -> None:
        _call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """What a piece of JavaScript returns."""
        return _call("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def wait_for(self, *texts: str) -> None:
        """Until all of ``texts`` are written somewhere on the page."""
        self.wait_until(
            "return document.body.textContent",
            lambda page: all(text in page for text in texts),
            f"{texts} are there",
        )

    def wait_until(self, script: str, holds: Callable[[Any], bool], what: str, timeout_s: float = 40) -> None:
        """Until ``holds`` of what the JavaScript returns."""
        deadline = time.monotonic() + timeout_s
        while not holds(value := self.run(script)):
            assert time.monotonic() < deadline, (
                f"waited {timeout_s:.0f} s until {what}; the last value: {value}"
            )
            time.sleep(0.1)


@contextmanager
def chromium(profile: Path, width: int = 1400, height: int = 1400) -> Iterator[Browser]:
    port = free_port()
    with child(["chromedriver", f"--port={port}"]):
        server = f"http://127.0.0.1:{port}"
        wait_until_open(port)
        arguments = [*ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        options = {"browserName": "chrome", "goog:chromeOptions": {"args": arguments}}
        answer = _call("POST", f"{server}/session", {"capabilities": {"alwaysMatch": options}})
        session = f"{server}/session/{answer['sessionId']}"
        try:
            yield Browser(session)
        finally:
            _call("DELETE", session)


@contextmanager
def child(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the context."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_open(port: int, timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens on port {port}"
            time.sleep(0.1)


def _call(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with _OPENER.open(request, timeout=60) as answer:
        return json.load(answer)["value"]
