"""What several pages of sentences need: addresses of a cast, a domain's policy, an attack, a client that falls silent."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import cbor2
import pytest

from tests.flows.durability_state import processes
from tests.harness.console import Console
from tests.harness.environment import IN_CI, PRIVATE_NETWORK
from tests.harness.product import Cast, Files, Product
from tests.harness.waiting import until
from tests.harness.wire import PUT, Peer, peer

NTP = 123


def new_casts(product: Product, count: int) -> list[Cast]:
    """New casts, once the signal channel has heard of them: of the last one, since it hears in order."""
    casts = product.new_casts(count)
    with peer(casts[-1].mallory, product.signal_port) as last:
        until(lambda: last.get().code == "4.04", what="the signal channel knowing new clients")
    return casts


def host(cast: Cast, number: int) -> str:
    """An address of the cast's domain; 7 is the one that everybody asks for."""
    return f"{cast.domain.host.rpartition('.')[0]}.{number}"


def only(cast: Cast, number: int = 7) -> str:
    return f"{host(cast, number)}/32"


def set_domain(console: Console, cast: Cast, **values: Any) -> None:
    """As `manage.py domain set` does."""
    console.run(
        "from mitigation.services import domains\ndomains.change_domain(name, values, actor='tests', now=now)",
        name=cast.domain.name,
        values=values,
    )


def stop(console: Console, files: Files, mid: int) -> None:
    """An operator ends what this client asked for, as `manage.py mitigation stop` does."""
    console.run(
        "from mitigation.services import mitigations\n"
        "row = Mitigation.objects.live().get(client__name=client, mid=mid)\n"
        "mitigations.stop(row.pk, actor='operator', reason='stopped by an operator', now=now)",
        client=files.name,
        mid=mid,
    )


def needs_enforcement() -> None:
    """Statuses 2 and 3 are said of rules on equipment only."""
    if PRIVATE_NETWORK and shutil.which("nft"):
        return
    if IN_CI:
        pytest.fail("continuous integration must run as root with nftables")
    pytest.skip("nftables needs root, and this kernel to give it to us")


def status_of(peer: Peer, mid: int) -> int:
    """0 when there is no such mitigation."""
    found = peer.get(mid)
    return int(found.scope[16]) if found.code == "2.05" else 0


def until_status(peer: Peer, mid: int, *wanted: int, within: float = 15.0) -> None:
    until(lambda: status_of(peer, mid) in wanted, within=within, what=f"status {wanted} of mid {mid}")


def attack(cast: Cast, packets: int, *, octets: int = 100) -> None:
    """Answers of an NTP server that nobody asked, from this machine to the cast's address of everybody."""
    needs_enforcement()
    subprocess.run(["ip", "route", "replace", "local", cast.domain.prefix, "dev", "lo"], check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", NTP))
        for _ in range(packets):
            sock.sendto(b"x" * octets, (cast.domain.host, 40_000))


def remembered(product: Product, what: str) -> int:
    """How many of these the signal worker holds, as it says on SIGUSR1."""
    before = len(product.lines)
    os.kill(processes(product)["signal"], signal.SIGUSR1)

    def said() -> str:
        return next((line for line in product.lines[before:] if "remembered:" in line), "")

    found = re.search(rf"{what} (\d+)", until(said, what="the sizes"))
    assert found is not None, what
    return int(found[1])


@contextlib.contextmanager
def talking(peer: Peer) -> Iterator[None]:
    """A client that keeps its session alive, by a heartbeat each half second."""
    ended = threading.Event()

    def talk() -> None:
        while not ended.wait(0.5):
            peer.ask(PUT, "hb", cbor2.dumps({49: {51: True}}))

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
