"""The lab itself: what it sends is real, what it counts is so, and nothing of it is left behind."""

from __future__ import annotations

import os
import subprocess

import pytest
from traffic import HOST, OTHER_SOURCE, SOURCE, to

from lab.packets import TCP, UDP, Receiver, send, total
from lab.services import client_sources, finish_load, start_load, start_serving
from lab.topology import VICTIM4, VICTIM6, Topology

pytestmark = pytest.mark.flow


def namespaces() -> set[str]:
    """Those that this process made: other tests have labs of their own."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {name for line in listed.splitlines() if f"-{os.getpid()}-" in (name := line.split()[0])}


def test_labs_run_beside_each_other_and_leave_nothing_behind(lab):
    before = namespaces()

    with pytest.raises(ZeroDivisionError), Topology("dots-test") as one, Topology("dots-test") as other:
        during = namespaces() - before
        process = one.victim.start("sleep", "600")
        _ = 1 // 0

    assert len(during) == 8
    assert {namespace.name for namespace in (*one.namespaces, *other.namespaces)} == during
    assert namespaces() == before
    assert process.poll() is not None


@pytest.mark.parametrize("family", [4, 6])
def test_packets_and_their_fragments_are_good_enough_for_a_real_server(lab, family):
    """The server's kernel checks sums and puts fragments together before the server answers."""
    with Topology("dots-test") as network:
        start_serving(network.victim, VICTIM4, VICTIM6)
        with Receiver(network.attacker) as answers:
            sent = send(
                network.attacker,
                to(HOST[family], source_port=5001, destination_port=53, count=10),
                to(HOST[family], source_port=5002, destination_port=53, payload=2000, fragment_size=1200, count=5),
                to(HOST[family], source_port=5003, destination_port=80, protocol=TCP, payload=0, count=1),
            )
            seen = answers.stop()

    assert [one.packets for one in sent] == [10, 10, 1]
    assert [one.later_fragments for one in sent] == [0, 5, 0]
    assert total(seen, protocol=UDP, source_port=53, destination_port=5001) == 10
    assert total(seen, protocol=UDP, source_port=53, destination_port=5002) == 5
    assert total(seen, protocol=TCP, source_port=80, destination_port=5003) >= 1


def test_sources_are_used_in_turn_at_the_rate_asked_for(lab):
    with Receiver(lab.victim) as receiver:
        (sent,) = send(lab.attacker, to(HOST[4], sources=(SOURCE[4], OTHER_SOURCE[4]), count=100, rate=1000))
        seen = receiver.stop()

    assert total(seen, source=SOURCE[4]) == total(seen, source=OTHER_SOURCE[4]) == 50
    assert sent.octets == 100 * (20 + 8 + 64)


def test_ordinary_people_notice_a_service_that_is_not_there(lab):
    clients4, clients6 = client_sources(2)
    load = start_load(lab.clients, seconds=0.2, rate=50, targets=["198.51.100.99"], sources=clients4 + clients6)

    experience = finish_load(load)

    assert experience.dns.asked == experience.http.asked == 10
    assert experience.dns.success == experience.http.success == 0
