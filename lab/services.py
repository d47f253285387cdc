"""What an ordinary host serves, and ordinary people who use it, with numbers on how it went for them.

Run inside a namespace:

    python -m lab.services serve ADDRESS...
        DNS on UDP port 53 and HTTP on TCP port 80, until its input closes
    python -m lab.services load SECONDS RATE ADDRESS... -- SOURCE...
        RATE requests of each kind a second, from the sources in turn
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address

from lab.topology import Namespace

DNS_PORT, HTTP_PORT = 53, 80
PATIENCE_SECONDS = 2.0
PAGE = b"<p>still here</p>\n" * 50
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(PAGE) + PAGE


@dataclass
class Tally:
    """One try each, no repeats: what a person would have had to wait for or do again counts as failed."""

    asked: int = 0
    answered: int = 0
    slowest_ms: float = 0.0

    @property
    def success(self) -> float:
        return self.answered / self.asked if self.asked else 0.0

    def note(self, seconds: float | None) -> None:
        self.asked += 1
        if seconds is not None:
            self.answered += 1
            self.slowest_ms = max(self.slowest_ms, round(seconds * 1000, 1))


@dataclass
class Experience:
    dns: Tally = field(default_factory=Tally)
    http: Tally = field(default_factory=Tally)


def start_serving(namespace: Namespace, *addresses: str) -> subprocess.Popen[str]:
    """Returns when the sockets are open; the servers end with the lab."""
    return namespace.start_module("lab.services", "serve", *addresses)


def start_load(
    namespace: Namespace, *, seconds: float, rate: int, targets: list[str], sources: list[str]
) -> subprocess.Popen[str]:
    arguments = ("load", str(seconds), str(rate), *targets, "--", *sources)
    return namespace.start_module("lab.services", *arguments)


def finish_load(process: subprocess.Popen[str], timeout: float = 120.0) -> Experience:
    answer, _ = process.communicate(timeout=timeout)
    found = json.loads(answer)
    return Experience(Tally(**found["dns"]), Tally(**found["http"]))


def client_sources(count: int) -> tuple[list[str], list[str]]:
    """Addresses of as many ordinary clients, each IPv6 one in a /64 of its own."""
    return [f"192.0.2.{n + 10}" for n in range(count)], [f"2001:db8:bad:c{n + 1:03x}::9" for n in range(count)]


class _Dns(asyncio.DatagramProtocol):
    """Answers any query with the question and one address, as a resolver would read it (RFC 1035, section 4)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        if len(data) < 12:
            return
        header = data[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
        record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes((198, 51, 100, 7))
        self.transport.sendto(header + data[12:] + record, peer)


class _Ask(asyncio.DatagramProtocol):
    def __init__(self, number: int) -> None:
        self.number = number
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        question = b"\x04host\x07example\x00" + struct.pack("!HH", 1, 1)
        transport.sendto(struct.pack("!HHHHHH", self.number, 0x0100, 1, 0, 0, 0) + question)

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        if data[:2] == struct.pack("!H", self.number) and not self.answer.done():
            self.answer.set_result(None)


async def _serve_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_ANSWER)
        await writer.drain()
    writer.close()


async def _serve(addresses: list[str]) -> None:
    loop = asyncio.get_running_loop()
    for address in addresses:
        transport, _ = await loop.create_datagram_endpoint(_Dns, local_addr=(address, DNS_PORT))
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        await asyncio.start_server(_serve_page, address, HTTP_PORT, backlog=1024)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


async def _ask_name(target: str, source: str, number: int) -> None:
    loop = asyncio.get_running_loop()
    transport, asking = await loop.create_datagram_endpoint(
        lambda: _Ask(number), local_addr=(source, 0), remote_addr=(target, DNS_PORT)
    )
    try:
        await asking.answer
    finally:
        transport.close()


async def _get_page(target: str, source: str) -> None:
    reader, writer = await asyncio.open_connection(target, HTTP_PORT, local_addr=(source, 0))
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: host.example\r\n\r\n")
        page = await reader.read(-1)
        if page != _ANSWER:
            raise ConnectionError("the page is not whole")
    finally:
        writer.close()


async def _timed(request: Awaitable[None], tally: Tally) -> None:
    started = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await request
    except (TimeoutError, OSError):
        tally.note(None)
    else:
        tally.note(time.monotonic() - started)


async def _load(seconds: float, rate: int, targets: list[str], sources: list[str]) -> Experience:
    """Each target is asked from sources of its own family, each source in turn."""
    of_family = {version: [s for s in sources if ip_address(s).version == version] for version in (4, 6)}
    experience = Experience()
    print("ready", flush=True)
    started = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(seconds * rate)):
            await asyncio.sleep(max(0.0, number / rate - (time.monotonic() - started)))
            target = targets[number % len(targets)]
            family = of_family[ip_address(target).version]
            source = family[number // len(targets) % len(family)]
            tasks.create_task(_timed(_ask_name(target, source, number & 0xFFFF), experience.dns))
            tasks.create_task(_timed(_get_page(target, source), experience.http))
    return experience


def main(arguments: list[str]) -> None:
    match arguments:
        case ["serve", *addresses] if addresses:
            asyncio.run(_serve(addresses))
        case ["load", seconds, rate, *rest] if "--" in rest:
            cut = rest.index("--")
            experience = asyncio.run(_load(float(seconds), int(rate), rest[:cut], rest[cut + 1 :]))
            print(json.dumps(asdict(experience)))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
