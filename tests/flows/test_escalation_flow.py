"""A flood that no source's limit holds: the server goes one rung up by what passes, and down when it is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab import packets
from lab.packets import Flow, Receiver, total
from lab.topology import VICTIM4, Topology, why_impossible
from tests.harness.environment import IN_CI
from tests.harness.product import Files, Product, running
from tests.harness.waiting import until

pytestmark = [pytest.mark.flow, pytest.mark.slow]

ROUTER = "169.254.2.1"  # as the victim's network reaches it
SOURCES = tuple(f"203.0.113.{n}" for n in range(1, 251))
RATE, BURST = 300, 30
FLOOD = 2_000  # packets a second, eight from each source


@pytest.fixture(scope="module")
def lab() -> Iterator[Topology]:
    reason = why_impossible()
    if reason and IN_CI:
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    with Topology("dots-steps") as topology:
        yield topology


@pytest.fixture(scope="module")
def router(lab: Topology) -> Iterator[Product]:
    with running(environment={"DOTS_BIND": "0.0.0.0"}, demo=True, namespace=lab.router.name) as product:
        yield product


def flood(seconds: float) -> Flow:
    count = int(FLOOD * seconds)
    return Flow(VICTIM4, SOURCES, source_port=5555, destination_port=4444, payload=64, count=count, rate=FLOOD)


def limits(lab: Topology) -> int:
    return lab.router.run("nft", "list", "limits").count(f"rate over {RATE}/second")


def test_what_the_shield_lets_pass_is_held_to_the_rate_and_let_go_afterwards(lab: Topology, router: Product) -> None:
    router.manage(
        *("domain", "set", "demo.example", "--ladder", "shield", "ratelimit", "--step-packets", "600"),
        *("--step-up-after", "3", "--step-down-after", "4", "--step-lasts", "30"),
        *("--parameter", f"limit_packets={RATE}"),
    )
    client = Files("demo", "", router.home / "demo" / "client")
    asked = router.client(client, "mitigate", VICTIM4, server=ROUTER, namespace=lab.victim.name)
    assert asked.status == 0, asked.out + asked.err
    number = until(router.mitigations, what="the mitigation")[0]["id"]

    def shown() -> dict[str, Any]:
        return router.mitigation(number)

    until(lambda: shown()["status"] == "mitigated", within=15, what="its rules")
    assert shown()["playbook"] == "shield"

    # The shield knows nothing of it: all of it arrives, until it has lasted too long.
    # It is ended by hand: how long a busy machine takes for the steps below, nobody knows.
    attack = packets.start_sending(lab.attacker, flood(180))
    with Receiver(lab.victim, linger=0.5) as receiver:
        until(lambda: shown()["playbook"] == "ratelimit", within=25, what="a step up")
        assert total(receiver.stop(), destination_port=4444) > 2 * FLOOD
    until(lambda: limits(lab) == 1, within=10, what="the limit in the kernel")

    # Now its rate passes, of all sources together.
    with Receiver(lab.victim, linger=0.5) as receiver:
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 4, what="four seconds of the flood")
        seen = receiver.stop()
        seconds = time.monotonic() - began
    assert attack.poll() is None, "the flood ended too early for this to say anything"
    assert 4 * RATE <= total(seen, destination_port=4444) <= RATE * (seconds + 1) + BURST
    assert shown()["status"] == "mitigated"
    assert shown()["step_until"] is not None

    # It is over, and the step with it; the shield stays.
    attack.terminate()
    attack.communicate(timeout=10)
    until(lambda: shown()["playbook"] == "shield", within=60, what="a step down")
    until(lambda: limits(lab) == 0, within=15, what="no limit in the kernel")
    told = [step for step in shown()["history"] if step["happening"].startswith("step")]
    assert [step["happening"] for step in told if step["happening"] != "step-kept"] == ["stepped-up", "stepped-down"]
    assert "packets and" in told[0]["reason"]
    assert any("amplification" in rule["text"] for rule in shown()["rules"])

    # Somebody who knows what it is has it begin there.
    router.manage("mitigation", "evidence", str(number), "--kind", "spoofed-flood", "--from", "flow collector")
    assert shown()["playbook"] == "ratelimit"
    until(lambda: limits(lab) == 1, within=10, what="the limit in the kernel")
    with Receiver(lab.victim) as receiver:
        began = time.monotonic()
        packets.send(lab.attacker, flood(2))
        seconds = time.monotonic() - began
        assert total(receiver.stop(), destination_port=4444) <= RATE * (seconds + 1) + BURST
