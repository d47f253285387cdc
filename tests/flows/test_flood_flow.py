"""A client that asks too much is limited and harms no other; hellos of nobody cost little and leave nothing."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiocoap
import cbor2
import pytest
from aiocoap import GET, PUT, Message
from durability_state import processes

from benchmarks import flood
from mitigation.client.identity import Files as ClientFiles
from mitigation.protocol import messages
from mitigation.tls import connect
from tests.harness.environment import IN_CI
from tests.harness.libcoap import GNUTLS, Libcoap
from tests.harness.product import Domain, Files, Product, running
from tests.harness.waiting import until

pytestmark = [pytest.mark.flow, pytest.mark.slow]

Tell = Callable[[str], None]

RATE, BURST = 5, 100  # requests a second, and at once: of each client here
SECONDS = 2.5
HELLOS = 30_000  # a second


@pytest.fixture(scope="module")
def limited() -> Iterator[Product]:
    if shutil.which("cc") is None:
        if IN_CI:
            pytest.fail("cc is missing; .ci/run installs gcc")
        pytest.skip("the generator needs a C compiler and libgnutls28-dev")
    flood.build()
    limits = {"DOTS_CLIENT_RATE": str(RATE), "DOTS_CLIENT_BURST": str(BURST), "DOTS_DRIVER": "dryrun"}
    with running(environment={**limits, "DOTS_LOG_LEVEL": "WARNING"}) as product:
        yield product


@pytest.fixture
def domain(limited: Product) -> Domain:
    return limited.new_domain()


@pytest.fixture
def mallory(limited: Product) -> tuple[Domain, Files]:
    domain = limited.new_domain()
    return domain, limited.new_client(domain, "mallory")


def patient(product: Product, domain: Domain, files: Files, mode: str = "put") -> dict[str, Any]:
    """A few requests a second of a modest client, over one session: what it gets, and how long it waits."""
    return flood.result(
        flood.requests(
            mode,
            product.signal_port,
            rate=RATE,
            seconds=SECONDS,
            files=files.directory,
            sessions=1,
            cuid=files.name,
            prefix=f"{domain.host}/32",
        )
    )


def resident_kb(product: Product) -> int:
    status = Path(f"/proc/{processes(product)['signal']}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


def remembered(product: Product) -> dict[str, int]:
    """The sizes of the signal worker's tables, as it says on SIGUSR1."""
    lines = len(product.lines)
    os.kill(processes(product)["signal"], signal.SIGUSR1)
    until(lambda: any("counted:" in line for line in product.lines[lines:]), within=10, what="the sizes")
    said = next(line for line in product.lines[lines:] if "remembered:" in line).partition("remembered: ")[2]
    return {name: int(number) for name, number in (one.rsplit(" ", 1) for one in said.split(", "))}


@pytest.mark.rows("SIG-SEC-001", "SIG-MIT-023", "SIG-COA-026")
def test_a_client_that_floods_is_limited_and_harms_no_other(
    limited: Product, domain: Domain, mallory: tuple[Domain, Files], tell: Tell
) -> None:
    alice = limited.new_client(domain, "alice")
    quiet = patient(limited, domain, alice)
    theirs, files = mallory

    flooding = flood.requests(
        "put",
        limited.signal_port,
        rate=8_000,
        seconds=SECONDS + 2,
        files=files.directory,
        sessions=8,
        cuid="mallory",
        prefix=f"{theirs.host}/32",
    )
    beside = patient(limited, domain, alice)
    found = flood.result(flooding)

    codes = Counter(found["codes"])
    assert found["sent"] > 4_000 * SECONDS
    assert sum(codes.values()) - codes["5.03"] <= BURST + RATE * (SECONDS + 6), codes
    assert codes["5.03"] > 20
    assert beside["answered"] == beside["sent"]
    assert set(beside["codes"]) == {"2.04"}
    assert beside["p50_ms"] < 3 * quiet["p50_ms"] + 50  # without limits 1,500 ms, and growing
    assert beside["p99_ms"] < quiet["p99_ms"] + 1_000
    tell(
        f"8,000 PUT a second: {dict(codes)}; another client's p50 {quiet['p50_ms']:.1f} -> {beside['p50_ms']:.1f} ms, "
        f"longest {quiet['max_ms']:.1f} -> {beside['max_ms']:.1f} ms"
    )

    def asks_anew() -> bool:
        """With another session and a cuid never used before."""
        peer = Libcoap(GNUTLS, files, server="127.0.0.1", port=limited.signal_port)
        body = cbor2.dumps({1: {2: [{6: [f"{theirs.host6}/128"], 14: 600}]}})
        said = peer.ask("put", f"/mitigate/cuid=anew-{time.monotonic_ns()}/mid=1", body)
        return said.code == "5.03" and "Max-Age:10" in said.log

    until(asks_anew, within=10, what="5.03 with Max-Age, also for a new session and a new cuid")


@pytest.mark.rows("SIG-SEC-001")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_who_is_refused_stays_connected(
    limited: Product, mallory: tuple[Domain, Files], transport: Any, tell: Tell
) -> None:
    _, files = mallory
    context = aiocoap.Context()
    try:
        remote = await connect(
            context,
            "127.0.0.1",
            limited.signal_port,
            transport=transport,
            credentials=ClientFiles(files.ca, files.cert, files.key).credentials(),
            server_name="localhost",
        )
        codes: Counter[str] = Counter()
        for _ in range(2):
            codes += Counter(
                await asyncio.gather(*(ask(context, remote, GET, "mitigate", "cuid=x") for _ in range(120)))
            )
        async with asyncio.timeout(10):
            while (
                beat := await ask(context, remote, PUT, "hb", payload=messages.encode_heartbeat(peer_hb_status=True))
            ) == "none":
                continue  # the pause of a second that follows too many refusals
        assert codes["4.04"] <= BURST + RATE * 10
        assert codes["5.03"] >= 20
        assert beat == "2.04"
        assert remote.is_open
        tell(f"240 requests at once over {transport}: {dict(codes)}, then a heartbeat: {beat}")
    finally:
        await context.shutdown()


async def ask(context: Any, remote: Any, code: Any, *path: str, payload: bytes = b"") -> str:
    """The code of the answer, or "none"."""
    message = Message(code=code, uri_path=(".well-known", "dots", *path), payload=payload, _mtype=1)
    message.remote = remote
    try:
        answer = await asyncio.wait_for(context.request(message, handle_blockwise=False).response, 1.5)
    except TimeoutError:
        return "none"
    return str(answer.code.dotted)


@pytest.mark.rows("SIG-SEC-005", "SIG-SEC-009")
def test_hellos_from_everywhere_leave_nothing_and_cost_little(limited: Product, domain: Domain, tell: Tell) -> None:
    carol = limited.new_client(domain, "carol")
    patient(limited, domain, carol)
    quiet = patient(limited, domain, carol, "get")
    size, before = resident_kb(limited), remembered(limited)

    flooding = flood.hellos(limited.signal_port, rate=HELLOS, seconds=SECONDS + 2)
    beside = patient(limited, domain, carol, "get")
    sent = flood.result(flooding)

    after = remembered(limited)
    assert sent["sent"] - sent["unsent"] > 0.5 * HELLOS * SECONDS
    assert after["DTLS handshakes"] == 0
    assert after["DTLS sessions"] == before["DTLS sessions"]
    assert after["tasks"] <= before["tasks"] + 2
    assert resident_kb(limited) - size < 8 * 1024
    assert beside["answered"] == beside["sent"], "a handshake and every request got through"
    # Of a dozen requests on a shared machine; what hellos cost is measured by `make flood`.
    assert beside["p99_ms"] < quiet["p99_ms"] + 1_000
    tell(
        f"{sent['sent']} spoofed hellos at {HELLOS} a second: GET p50 {quiet['p50_ms']:.2f} -> {beside['p50_ms']:.2f} ms, "
        f"longest {quiet['max_ms']:.2f} -> {beside['max_ms']:.2f} ms, memory {resident_kb(limited) - size:+d} kB"
    )
