"""Nonsense at a running server: over a session, over a stream, and from strangers. It stays, and stays small."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiocoap
import pytest
from aiocoap import PUT, Message

from mitigation.client.identity import Files as ClientFiles
from mitigation.protocol import messages
from mitigation.tls import Remote, connect
from mitigation.tls.client import Transport
from tests.fuzz.mutation import Mutator, seeds
from tests.harness.product import Files, Product, running
from tests.harness.waiting import until

pytestmark = [pytest.mark.flow, pytest.mark.slow]

SECONDS = float(os.environ.get("FUZZ_SECONDS", "3"))
GROWTH = 16 * 1024  # kB; caches are filled once, and stay

Tell = Callable[[str], None]


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Product]:
    """One that listens to all we say, for the limits would spare it most of it."""
    limits = {"DOTS_CLIENT_RATE": "100000", "DOTS_CLIENT_BURST": "100000", "DOTS_DRIVER": "dryrun"}
    with running(environment={**limits, "DOTS_LOG_LEVEL": "WARNING"}) as product:
        yield product


@pytest.fixture
def files(fuzzed: Product) -> Files:
    return fuzzed.new_client(fuzzed.new_domain(), "fuzzer")


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n    {text}", end="", flush=True)

    return say


class Watched:
    """The signal worker while it is fuzzed: the same process before and after, no larger, nothing in its log."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self.pid = _signal_worker(product)
        self._lines = len(product.lines)
        self._resident = self._resident_kb()

    def check(self) -> dict[str, int]:
        """What it remembers now. Fails if it died, grew, or said that something of its own went wrong."""
        assert _signal_worker(self._product) == self.pid
        said = "\n".join(self._product.lines[self._lines :])
        for word in ("Traceback", "request failed", "made this fail", "starts again", "Task exception"):
            assert word not in said, said
        self.growth = self._resident_kb() - self._resident
        assert self.growth < GROWTH
        return self._sizes()

    def _sizes(self) -> dict[str, int]:
        lines = len(self._product.lines)
        os.kill(self.pid, signal.SIGUSR1)
        until(lambda: any("counted:" in line for line in self._product.lines[lines:]), what="the sizes")
        said = next(line for line in self._product.lines[lines:] if "remembered:" in line)
        pairs = (one.rsplit(" ", 1) for one in said.partition("remembered: ")[2].split(", "))
        return {name: int(number) for name, number in pairs}

    def _resident_kb(self) -> int:
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())[1])  # type: ignore[index]


def _signal_worker(product: Product) -> int:
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            command = (directory / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == product.pid and b"runsignal" in command:
            return int(directory.name)
    raise AssertionError("there is no signal worker")


async def _open(context: Any, product: Product, files: Files, transport: Transport) -> Remote:
    return await connect(
        context,
        "127.0.0.1",
        product.signal_port,
        transport=transport,
        credentials=ClientFiles(files.ca, files.cert, files.key).credentials(),
        server_name="localhost",
        timeout=10,
    )


async def _beat(context: Any, remote: Remote, mid: int | None = None) -> bool:
    message = Message(
        code=PUT,
        uri_path=(".well-known", "dots", "hb"),
        payload=messages.encode_heartbeat(peer_hb_status=True),
        _mtype=1,
    )
    message.mid = mid
    message.remote = remote
    answer = await asyncio.wait_for(context.request(message, handle_blockwise=False).response, 5)
    return str(answer.code.dotted) == "2.04"


def _in_lower_half(data: bytes) -> bytes:
    """With a message ID that no beat has, or the server would rightly take the beat for a copy of this."""
    return data[:2] + bytes((data[2] & 0x7F,)) + data[3:] if len(data) > 2 else data or b"\0"


@pytest.mark.rows("SIG-COA-019", "SIG-CBR-012")
async def test_nonsense_over_a_dtls_session(fuzzed: Product, files: Files, tell: Tell) -> None:
    context = aiocoap.Context()
    mutator, count, beats = Mutator(seeds("message"), 1), 0, 0
    try:
        remote = await _open(context, fuzzed, files, "udp")
        assert await _beat(context, remote)
        watched = Watched(fuzzed)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for _ in range(20):
                remote.send_bytes(_in_lower_half(mutator.next()[:1_100]))
                count += 1
            beats += 1
            assert await _beat(context, remote, 0x8000 | beats & 0x7FFF), "it answers while it is fuzzed"
        sizes = watched.check()
        assert sizes["message ids"] <= 3_000
        assert sizes["unfinished bodies"] <= 1_024
        assert sizes["tasks"] < 400, "at most 256 open requests of one session"
        tell(f"{count} messages over DTLS: {watched.growth:+d} kB, {sizes}")
    finally:
        await context.shutdown()
    until(lambda: watched.check()["tasks"] < 30, within=20, what="the end of what the session had begun")


async def test_nonsense_over_a_tls_connection(fuzzed: Product, files: Files, tell: Tell) -> None:
    context = aiocoap.Context()
    mutator, count, opened = Mutator(seeds("frames"), 2), 0, 0
    watched = Watched(fuzzed)
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end:
            remote = await _open(context, fuzzed, files, "tcp")
            opened += 1
            while remote.is_open and time.monotonic() < end:
                remote.send_bytes(mutator.next()[2:1_100])
                count += 1
                await asyncio.sleep(0)
            if remote.is_open:
                remote.cut()
        remote = await _open(context, fuzzed, files, "tcp")
        assert await _beat(context, remote)
        remote.cut()
    finally:
        await context.shutdown()
    until(lambda: watched.check()["TLS connections"] == 0, within=20, what="the end of all connections")
    tell(f"{count} frames over {opened} TLS connections: {watched.growth:+d} kB, {watched.check()}")


@pytest.mark.rows("SIG-SEC-005", "SIG-SEC-009")
def test_nonsense_from_strangers(fuzzed: Product, files: Files, tell: Tell) -> None:
    target = ("127.0.0.1", fuzzed.signal_port)
    mutator = Mutator(seeds("records") + seeds("handshake") + seeds("message"), 3)
    chance = random.Random(4)
    watched, count, answered = Watched(fuzzed), 0, 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind((f"127.{chance.randrange(256)}.{chance.randrange(256)}.{1 + chance.randrange(254)}", 0))
            stranger.setblocking(False)
            for _ in range(50):
                stranger.sendto(
                    chance.randbytes(chance.randrange(1, 400)) if count % 3 == 0 else mutator.next(), target
                )
                count += 1
            try:
                while True:
                    answer = stranger.recv(65_535)
                    answered += 1
                    assert len(answer) <= 400, "what is not proved is not answered at length"
            except BlockingIOError:
                pass
    with _garbage_over_tcp(target, chance):
        assert fuzzed.client(files, "status").status == 1  # 4.04: there is nothing, and somebody says so
    sizes = watched.check()
    assert sizes["DTLS handshakes"] == 0, "nobody has shown a cookie"
    tell(f"{count} datagrams of strangers, {answered} answers: {watched.growth:+d} kB, {sizes}")


class _garbage_over_tcp:
    """Connections that say nonsense, or nothing, while the block lasts."""

    def __init__(self, target: tuple[str, int], chance: random.Random) -> None:
        self._open = [socket.create_connection(target, timeout=5) for _ in range(30)]
        for number, one in enumerate(self._open):
            if number % 3:
                one.sendall(chance.randbytes(300) if number % 2 else b"\x16\x03\x01\xff\xff" + chance.randbytes(2_000))

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        for one in self._open:
            one.close()
