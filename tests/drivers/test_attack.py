"""The whole story in the lab: a host that serves DNS and HTTP is flooded, and ordinary people notice nothing."""

from __future__ import annotations

import pytest
from traffic import Totals, for_a_while, scope, through, to

from lab.packets import SYN, TCP, UDP, Receiver, finish_sending, start_sending, total
from lab.services import client_sources, finish_load, start_load, start_serving
from lab.topology import VICTIM4, VICTIM6
from mitigation.rules.canonical import Kind
from mitigation.rules.playbooks import render

pytestmark = [pytest.mark.flow, pytest.mark.slow]

REFLECTORS = {
    4: tuple(f"203.0.113.{n}" for n in range(50, 100)),
    6: tuple(f"2001:db8:bad:a{n:03x}::7" for n in range(50)),
}
BOTS = {4: tuple(f"203.0.113.{n}" for n in range(100, 120)), 6: tuple(f"2001:db8:bad:ab{n:02x}::7" for n in range(20))}
SECONDS = 5


def amplified(family: int):
    """What NTP servers were made to send: answers in one packet, and answers in three fragments."""
    victim = {4: VICTIM4, 6: VICTIM6}[family]
    return (
        to(victim, sources=REFLECTORS[family], source_port=123, payload=440, count=8000 * SECONDS // 2, rate=8000),
        to(
            victim, sources=REFLECTORS[family], source_port=123, payload=3000, fragment_size=1400, count=1500, rate=2000
        ),
    )


def opening(family: int):
    victim = {4: VICTIM4, 6: VICTIM6}[family]
    return to(victim, protocol=TCP, sources=BOTS[family], payload=0, count=3000 * SECONDS, rate=3000)


def test_a_flood_is_taken_out_while_ordinary_people_are_served(lab, driver):
    rules = render("shield", scope(VICTIM4, VICTIM6), {}).rules
    start_serving(lab.victim, VICTIM4, VICTIM6)
    _, before = through(lab, to(VICTIM4, source_port=123, count=50))
    driver.apply(for_a_while(rules), ())

    with Receiver(lab.victim) as receiver:
        clients4, clients6 = client_sources(20)
        people = start_load(
            lab.clients, seconds=SECONDS + 1, rate=150, targets=[VICTIM4, VICTIM6], sources=clients4 + clients6
        )
        floods = [start_sending(lab.attacker, *amplified(family)) for family in (4, 6)]
        opened = [start_sending(lab.attacker, opening(family)) for family in (4, 6)]
        answers = [sent for flood in floods for sent in finish_sending(flood)]
        openings = [sent for flood in opened for sent in finish_sending(flood)]
        experience = finish_load(people)
        seen = receiver.stop()

    totals = Totals(driver)
    dropped = {kind: totals.packets(rule for rule in rules if rule.kind is kind) for kind in Kind}
    passed_openings = sum(total(seen, source=bot, tcp_flags=SYN) for bots in BOTS.values() for bot in bots)
    print(f"\nordinary people: {experience}\nanswers: {answers}\nopenings: {openings}, passed {passed_openings}")
    print({kind.name: packets for kind, packets in dropped.items()})
    assert total(before, source_port=123) == 50
    assert total(seen, protocol=UDP, source_port=123) == 0
    assert total(seen, protocol=UDP, is_later_fragment=True) == 0
    assert dropped[Kind.AMPLIFICATION] == sum(sent.packets - sent.later_fragments for sent in answers)
    assert dropped[Kind.FRAGMENTS] == sum(sent.later_fragments for sent in answers)
    assert experience.dns.asked == experience.http.asked == 150 * (SECONDS + 1)
    assert experience.dns.success >= 0.999
    assert experience.http.success >= 0.999
    sent_openings = sum(sent.packets for sent in openings)
    assert dropped[Kind.SYN_LIMIT] > sent_openings / 3
    assert dropped[Kind.SYN_LIMIT] + passed_openings == sent_openings
    assert dropped[Kind.UDP_LIMIT] == dropped[Kind.BOGONS] == dropped[Kind.TCP_FLAGS] == 0
