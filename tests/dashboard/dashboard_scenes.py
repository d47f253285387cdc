"""Whole situations: for the browser, and for the pictures in docs/img."""

from __future__ import annotations

from datetime import datetime, timedelta

import dashboard_cast as cast

from mitigation.models import Acl, Mitigation, RefusedAcl
from mitigation.protocol.status import Status
from mitigation.services.shadow import SAID as said_of_shadow


def first_day(now: datetime, *, enforces: bool = False) -> None:
    """A server that was just started: a domain, a client, nothing asked."""
    cast.point(enforces=enforces, now=now)
    domain = cast.domain("demo.example", "198.51.100.0/24", "2001:db8:100::/48", now=now)
    client = cast.client("gateway.demo.example", domain, now=now)
    cast.credential(client, now=now, serial="3fa2107c")


def quiet(now: datetime) -> None:
    """Nothing runs; three attacks are history."""
    people = _people(now)
    point = cast.point(now=now)
    for i, (prefix, bits, ago) in enumerate(
        (("198.51.100.7/32", 31.2e9, 3), ("203.0.113.80/32", 4.1e9, 9), ("2001:db8:40::53/128", 900e6, 17))
    ):
        start = now - timedelta(days=ago, hours=4)
        made = cast.mitigation(people[i], prefix, now=start, mid=i + 1, age=600)
        cast.install(made, point, now=start)
        cast.attack(made, now=start, dropped=bits, passed=2e8)
        cast.end(made, at=start + timedelta(seconds=120), reason=("", "false alarm, agreed", "")[i])


def under_attack(now: datetime, *, broken: bool = True) -> list[Mitigation]:
    """Three are hit, one is installed and not hit, one is not enforced, one is ending."""
    alice, bob, carol, dave = _people(now)
    point = cast.point(now=now)
    first = cast.mitigation(alice, now=now, mid=20417)
    second = cast.mitigation(alice, "198.51.100.64/26", now=now, mid=20418, age=2275, scope=_web("198.51.100.64/26"))
    third = cast.mitigation(carol, "2001:db8:40::53/128", now=now, mid=7, age=141, lifetime=600)
    fourth = cast.mitigation(bob, "203.0.113.0/28", now=now, mid=3, age=100, lifetime=-1)
    ending = cast.mitigation(dave, "192.0.2.9/32", now=now, mid=11, age=1900)
    made = [first, second, third, fourth, ending]
    for one in made:
        cast.install(one, point, now=now)
    cast.attack(first, now=now, dropped=27.3e9, passed=306e6)
    cast.attack(second, now=now, dropped=7.4e9, passed=191e6, waves=9)
    cast.attack(third, now=now, dropped=1.17e9, passed=48e6, octets=400)
    cast.attack(fourth, now=now, dropped=0, passed=19e6)
    cast.attack(ending, now=now, dropped=2.1e6, passed=12e6)
    ending.status, ending.expires_at = int(Status.TERMINATING), None
    ending.ends_at, ending.last_grace = now + timedelta(seconds=94), 120
    ending.save()
    if broken:
        lost = cast.mitigation(dave, "192.0.2.128/25", now=now, mid=12, age=130)
        cast.rules(lost, point, now=now, state="wanted")
        lost.problem = "nft refused the batch: Device or resource busy"
        lost.save()
        made.append(lost)
    return made


def waiting(now: datetime) -> list[Mitigation]:
    """One is hit; one waits for the second of two people, one for the first; a fourth one is in shadow mode."""
    alice, bob, carol, dave = _people(now)
    point = cast.point(now=now)
    first = cast.mitigation(alice, now=now, mid=20417)
    cast.install(first, point, now=now)
    cast.attack(first, now=now, dropped=27.3e9, passed=306e6)
    made = [first]
    for client, approval, prefix, given in (
        (bob, "two", "203.0.113.9/32", True),
        (carol, "one", "2001:db8:40::/64", False),
    ):
        _policy(client.domain, approval=approval, approval_within=900, widest_ipv4=28, widest_ipv6=64)
        one = cast.mitigation(client, prefix, now=now, mid=4, age=160, approved_at=None)
        one.approve_by = now + timedelta(seconds=740)
        one.approvals = [{"by": "operator bea", "at": now.isoformat()}] if given else []
        one.save()
        made.append(one)
    _policy(dave.domain, shadow=True, maximum_per_minute=30, maximum_targets=8, never_block=["192.0.2.1/32"])
    shadow = cast.mitigation(dave, "192.0.2.9/32", now=now, mid=11, age=300, status=Status.EXCEEDED)
    cast.rules(shadow, point, now=now, state="shadow")
    shadow.rules.filter(drops=False).update(state="installed", read_at=now, packets=81_200, octets=41_000_000)
    shadow.rendered_at, shadow.problem = now - timedelta(seconds=299), said_of_shadow
    shadow.passed_packets, shadow.passed_octets, shadow.counted_at = 81_200, 41_000_000, now
    shadow.save()
    return [*made, shadow]


def _policy(domain: cast.Domain, **values: object) -> None:
    cast.Domain.objects.filter(pk=domain.pk).update(**values)
    domain.refresh_from_db()


def dry_run(now: datetime) -> Mitigation:
    """One request on a server that touches no traffic: as the enforcer leaves it."""
    first_day(now)
    client = cast.Client.objects.get()
    made = cast.mitigation(client, now=now, mid=1, age=33, lifetime=600, status=Status.EXCEEDED)
    cast.rules(made, cast.EnforcementPoint.objects.get(), now=now)
    made.problem = made.status_reason = "dry run: no traffic is touched"
    made.notes = ["TCP connection limits need to see both directions; this point says it does"]
    made.save()
    return made


def _web(prefix: str) -> dict[str, list[object]]:
    ports = [{"lower-port": 80, "upper-port": 80}, {"lower-port": 443, "upper-port": 443}]
    return {"target-prefix": [prefix], "target-port-range": ports, "target-protocol": [6]}


def _people(now: datetime) -> list[cast.Client]:
    made = []
    for number, (name, gateway, prefixes) in enumerate(
        (
            ("example.net", "gw-a.example.net", ("198.51.100.0/24", "2001:db8:10::/48")),
            ("shop.example.com", "edge.shop.example.com", ("203.0.113.0/24",)),
            ("example.org", "gw-b.example.org", ("2001:db8:40::/48",)),
            ("example.info", "gw-1.example.info", ("192.0.2.0/24",)),
        )
    ):
        client = cast.client(gateway, cast.domain(name, *prefixes, now=now), now=now)
        days = 6 if name == "example.org" else 120 + 9 * number
        credential = cast.credential(client, now=now, serial=f"{number + 3}fa2107c{number}", days=days)
        peers = ("[2001:db8:10::2]:40113", "203.0.113.66:33801", "[2001:db8:40::1]:4646", "192.0.2.130:4646")
        cast.session(client, credential, peers[number], now=now, transport="tcp" if number == 1 else "udp")
        made.append(client)
    return made


def redirected(now: datetime) -> Mitigation:
    """One on the third rung of its ladder: some is dropped, much of it by limits, some is sent to a scrubber."""
    alice, *_ = _people(now)
    made = cast.mitigation(alice, now=now)
    cast.install(made, cast.point(now=now), now=now)
    cast.attack(made, now=now, dropped=8.1e9, passed=1.3e9, redirected=4.4e9, limited=0.6)
    made.playbook = "redirect"
    made.save()
    return made


def filtered(now: datetime) -> list[Acl]:
    """Two clients of a domain under attack, and one of another: lists in every state, some with long names and IPv6."""
    alice, bob, carol, _ = _people(now)
    bea = cast.client("a-gateway-with-a-rather-long-name.branch-office-17.example.net", alice.domain, now=now)
    point = cast.point(now=now)
    one = cast.mitigation(alice, now=now, mid=20417)
    cast.install(one, point, now=now)
    cast.attack(one, now=now, dropped=27.3e9, passed=306e6)
    hosts = [{"ipv4": {"source-ipv4-network": f"203.0.113.{i}/32"}} for i in range(120)]
    ntp = {"ipv4": {"destination-ipv4-network": "198.51.100.0/25"}, "udp": {"source-port-range-or-operator": _eq(123)}}
    six = {
        "ipv6": {"source-ipv6-network": "2001:db8:ffff:eeee:dddd:cccc:bbbb:aa00/120",
                 "destination-ipv6-network": "2001:db8:10:1111:2222:3333:4444:5555/128"},
        "tcp": {"destination-port-range-or-operator": {"lower-port": 8000, "upper-port": 8099}},
    }  # fmt: skip
    made = [
        cast.acl(alice, "partners", hosts[:6], action="accept", now=now),
        cast.acl(alice, "ntp", [ntp, six, {}], rate="125000.00", now=now, position=1),
        cast.acl(alice, "known-attackers", hosts, now=now, position=2, activation=1),
        cast.acl(alice, "a-list-with-a-name-that-somebody-made-much-longer-than-it-had-to-be", [ntp], now=now, position=3),
        cast.acl(alice, "held", [ntp, six], now=now, position=4, held_at=now - timedelta(minutes=4),
                 held_by="operator bea", held_reason="shuts out the monitoring"),
        cast.acl(bea, "waiting", [ntp], now=now, activation=1),
        cast.acl(bea, "off", hosts[:2], now=now, position=1, activation=3),
        cast.acl(bea, "opposite", [ntp], now=now, position=2, action="accept", awaits_operator=True),
        cast.acl(carol, "six", [six], now=now),
    ]  # fmt: skip
    for which, (bits, share) in ((0, (4e6, 0.0)), (1, (2.1e9, 0.43)), (2, (9.6e8, 1.0)), (8, (0.0, 0.0))):
        cast.enforce(made[which], point, now=now, bits=bits, dropped=share)
    RefusedAcl.objects.create(
        point=point, acl=made[3], reason="more entries than this equipment takes: 20,001 of 20,000",
        since=now - timedelta(minutes=3),
    )  # fmt: skip
    return made


def _eq(port: int) -> dict[str, object]:
    return {"operator": "eq", "port": port}
