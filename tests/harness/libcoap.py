"""libcoap's command-line clients: real peers, written by others."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cbor2
import pytest

from tests.harness.environment import IN_CI
from tests.harness.product import Files

GNUTLS, OPENSSL = "coap-client-gnutls", "coap-client-openssl"

_DIAGNOSTIC = re.compile(r"^[45]\.\d\d (.+)$", re.MULTILINE)  # printed as text, what is not printable as dots
_ANSWER = re.compile(r"\bc:(\d\.\d\d)\b")


@dataclass(frozen=True)
class Said:
    """The codes received in order, the last payload, and all that was printed."""

    codes: list[str]
    payload: bytes
    log: str

    @property
    def code(self) -> str:
        assert self.codes, f"no answer:\n{self.log}"
        return self.codes[-1]

    @property
    def body(self) -> Any:
        return cbor2.loads(self.payload)


class Libcoap:
    """One client tool with the certificate of one client."""

    def __init__(self, tool: str, files: Files, *, server: str, port: int, transport: str = "udp") -> None:
        if shutil.which(tool) is None:
            if IN_CI:
                pytest.fail(f"{tool} is missing; .ci/run installs libcoap3-bin")
            pytest.skip(f"{tool} is not installed: apt install libcoap3-bin")
        self._tool = tool
        self._files = files
        scheme = "coaps" if transport == "udp" else "coaps+tcp"
        host = f"[{server}]" if ":" in server else server
        self._base = f"{scheme}://{host}:{port}/.well-known/dots"
        self._transport = transport

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        content_format: int | None = 271,
        extra: tuple[str, ...] = (),
        wait: int = 8,
    ) -> Said:
        """One request; `path` begins with a slash."""
        with tempfile.TemporaryDirectory() as directory:
            command = self._command(method, path, body, content_format, Path(directory), (*extra, "-B", str(wait)))
            done = subprocess.run(command, capture_output=True, timeout=wait + 20, check=False)
            return _said(done.stdout + done.stderr, Path(directory) / "out")

    def observe(self, path: str, *, seconds: int) -> Watching:
        """Observe until `seconds` have passed or the watching ends."""
        directory = tempfile.TemporaryDirectory()
        command = self._command(
            "get", path, None, None, Path(directory.name), ("-s", str(seconds), "-B", str(seconds + 2))
        )
        return Watching(command, directory)

    def _command(
        self,
        method: str,
        path: str,
        body: bytes | None,
        content_format: int | None,
        directory: Path,
        extra: tuple[str, ...],
    ) -> list[str]:
        files = self._files
        command = [self._tool, "-v", "7", "-m", method, "-o", str(directory / "out")]
        command += ["-c", str(files.cert), "-j", str(files.key), "-C", str(files.ca)]
        if self._transport == "udp":
            command.append("-N")
        if body is not None:
            (directory / "body").write_bytes(body)
            command += ["-f", str(directory / "body")]
            if content_format is not None:
                command += ["-t", str(content_format)]
        return [*command, *extra, self._base + path]


class Watching:
    """A running observation; a context manager."""

    def __init__(self, command: list[str], directory: tempfile.TemporaryDirectory[str]) -> None:
        self._directory = directory
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._lines: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)
        self._reader.join(timeout=5)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._directory.cleanup()

    @property
    def log(self) -> str:
        return b"".join(self._lines).decode(errors="replace")

    @property
    def codes(self) -> list[str]:
        return _codes(self.log)

    @property
    def statuses(self) -> list[int]:
        """The status of each body received so far, of one mitigation."""
        content = (Path(self._directory.name) / "out").read_bytes() if self.codes else b""
        found = []
        while content:
            try:
                body = cbor2.loads(content)
            except cbor2.CBORDecodeError:
                break
            found.append(body[1][2][0][16])
            content = content[len(cbor2.dumps(body)) :]
        return found

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)


def _said(log: bytes, out: Path) -> Said:
    text = log.decode(errors="replace")
    payload = out.read_bytes() if out.exists() else b""
    diagnostic = _DIAGNOSTIC.search(text)
    if diagnostic:
        payload = diagnostic[1].encode()
    return Said(_codes(text), payload, text)


def _codes(log: str) -> list[str]:
    """Codes of received messages; requests have names instead of numbers in libcoap's log."""
    return [code for code in _ANSWER.findall(log) if code[0] in "245"]
