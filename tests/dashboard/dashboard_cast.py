"""The rows that dashboard tests look at: alice's domain under attack, bob beside her, and what the enforcer found.

Documentation addresses and names alone. Times are relative to a `now` that the caller gives.
"""

from __future__ import annotations

import ipaddress
import math
from datetime import datetime, timedelta
from typing import Any

from mitigation.models import (
    Acl,
    AclSample,
    Audit,
    Client,
    Credential,
    Domain,
    DomainPrefix,
    EnforcedAce,
    EnforcementPoint,
    Mitigation,
    Rule,
    RuleOwner,
    Sample,
    Session,
    Target,
    Transition,
)
from mitigation.protocol.scope import Scope, range_keys
from mitigation.protocol.status import Status


def domain(name: str, *prefixes: str, now: datetime) -> Domain:
    made = Domain.objects.create(name=name, created_at=now - timedelta(days=30))
    for text in prefixes:
        network = ipaddress.ip_network(text)
        first, last = range_keys(network)
        DomainPrefix.objects.create(domain=made, prefix=text, family=network.version, first=first, last=last)
    return made


def client(name: str, of: Domain, *, now: datetime) -> Client:
    return Client.objects.create(domain=of, name=name, created_at=now - timedelta(days=30))


def credential(of: Client, *, now: datetime, serial: str, days: int = 180, **values: Any) -> Credential:
    return Credential.objects.create(
        client=of,
        fingerprint=(serial * 64)[:64],
        serial=serial,
        subject=f"CN={of.name}",
        certificate="-----BEGIN CERTIFICATE-----\n",
        issued_at=now - timedelta(days=20),
        not_before=now - timedelta(days=20),
        not_after=now + timedelta(days=days),
        **values,
    )


def session(of: Client, by: Credential, peer: str, *, now: datetime, transport: str = "udp", **values: Any) -> Session:
    opened = now - timedelta(hours=5)
    return Session.objects.create(
        client=of,
        credential=by,
        worker="host:1",
        transport=transport,
        peer=peer,
        version="DTLS1.2" if transport == "udp" else "TLS1.3",
        cipher="ECDHE-ECDSA-AES-128-GCM" if transport == "udp" else "AES-128-GCM",
        resumed=False,
        opened_at=values.pop("opened_at", opened),
        last_heard_at=values.pop("last_heard_at", opened),
        **values,
    )


def point(name: str = "local", *, enforces: bool = True, now: datetime, **values: Any) -> EnforcementPoint:
    values = {"health": EnforcementPoint.Health.READY, "health_at": now, **values}
    driver = "nftables" if enforces else "dryrun"
    return EnforcementPoint.objects.create(name=name, driver=driver, enforces=enforces, counts=enforces, **values)


def mitigation(
    of: Client,
    prefix: str = "198.51.100.7/32",
    *,
    now: datetime,
    mid: int = 20417,
    age: float = 514,
    status: Status = Status.IN_PROGRESS,
    scope: dict[str, Any] | None = None,
    **values: Any,
) -> Mitigation:
    """Asked for `age` seconds ago and approved by policy; nothing is rendered yet."""
    asked = now - timedelta(seconds=age)
    scope = scope or {"target-prefix": [prefix]}
    lifetime = values.pop("lifetime", 3600)
    made = Mitigation.objects.create(
        domain=of.domain,
        client=of,
        cuid="dz6pHjaADkaFTbjr0JGBpw",
        mid=mid,
        scope=scope,
        scope_digest=Scope.from_json(scope).digest(),
        lifetime=lifetime,
        playbook="shield",
        status=int(status),
        requested_at=asked,
        refreshed_at=asked,
        expires_at=values.pop("expires_at", asked + timedelta(seconds=lifetime) if lifetime > 0 else None),
        mitigation_start=asked,
        approved_at=values.pop("approved_at", asked + timedelta(seconds=0.004)),
        **values,
    )
    for text in scope.get("target-prefix", ()):
        network = ipaddress.ip_network(text)
        first, last = range_keys(network)
        Target.objects.create(mitigation=made, family=network.version, first=first, last=last)
    transition(made, None, status, "submitted", actor=f"client {of.pk}", at=asked)
    return made


def transition(of: Mitigation, old: Status | None, new: Status, happening: str, *, actor: str, at: datetime) -> None:
    Transition.objects.create(
        mitigation=of, old=None if old is None else int(old), new=int(new), happening=happening, actor=actor, at=at
    )


SHIELD = (
    ("udp sport { 17, 19, 53, 123, 389, 1900, 11211 } drop", True, 0.74),
    ("udp fragment, not first, drop", True, 0.22),
    ("tcp flags impossible drop", True, 0.03),
    ("tcp new over 25/s per source drop", True, 0.01),
    ("what is left, counted", False, 1.0),
)


def rules(of: Mitigation, at: EnforcementPoint, *, now: datetime, state: str = "", **values: Any) -> list[Rule]:
    """Five rules of the shield playbook, rendered 31 ms after the request."""
    of.rendered_at = of.requested_at + timedelta(seconds=0.031)
    of.save(update_fields=["rendered_at"])
    state = state or (Rule.State.INSTALLED if at.enforces else Rule.State.WANTED)
    made = []
    for i, (text, drops, _) in enumerate(SHIELD):
        rule = Rule.objects.create(
            point=at,
            key=f"{of.pk}-{i}",
            kind="shield",
            text=f"{of.scope['target-prefix'][0]} {text}",
            drops=drops,
            state=state,
            since=of.requested_at,
            installed_at=of.requested_at + timedelta(seconds=0.118) if state == "installed" else None,
            deadline=(of.expires_at or now) + timedelta(seconds=300) if state == "installed" else None,
            read_at=now - timedelta(seconds=1) if state == "installed" else None,
            **values,
        )
        RuleOwner.objects.create(rule=rule, mitigation=of)
        made.append(rule)
    return made


def install(of: Mitigation, at: EnforcementPoint, *, now: datetime) -> None:
    """All rules of it read back, 118 ms after the request."""
    rules(of, at, now=now)
    of.status = int(Status.MITIGATED)
    of.installed_at = of.requested_at + timedelta(seconds=0.118)
    of.save(update_fields=["status", "installed_at"])
    moment = of.installed_at
    transition(of, Status.IN_PROGRESS, Status.MITIGATED, "rules-installed", actor="enforcer", at=moment)


def attack(
    of: Mitigation,
    *,
    now: datetime,
    dropped: float,
    passed: float,
    octets: int = 900,
    waves: float = 0.0,
    redirected: float = 0.0,
    limited: float = 0.0,
) -> None:
    """Samples of ten seconds since the installation, at so many bits per second, and the totals of rules and row.

    `limited` is the share of what is dropped that limits drop.
    """
    start = of.installed_at or of.requested_at
    seconds = (now - start).total_seconds()
    totals = [0, 0, 0, 0]
    steps = max(1, math.ceil(seconds / 10))
    for i in range(steps):
        at = min(now, start + timedelta(seconds=10 * (i + 1)))
        length = (at - start).total_seconds() - 10 * i
        ramp = min(1.0, (i + 1) / 4)
        swing = 1 + 0.12 * math.sin(i / 3.1) + 0.05 * math.sin(i * 1.7)
        if waves:
            swing *= 1.0 if math.sin(i / waves) > 0 else 0.02
        numbers = [
            int(dropped * ramp * swing * length / 8 / octets),
            int(dropped * ramp * swing * length / 8),
            int(passed * (0.97 + 0.05 * math.sin(i)) * length / 8 / 700),
            int(passed * (0.97 + 0.05 * math.sin(i)) * length / 8),
        ]
        totals = [known + more for known, more in zip(totals, numbers, strict=True)]
        Sample.objects.create(
            mitigation=of,
            at=at,
            seconds=length,
            dropped_packets=numbers[0],
            dropped_octets=numbers[1],
            passed_packets=numbers[2],
            passed_octets=numbers[3],
            redirected_packets=int(redirected * swing * length / 8 / octets),
            redirected_octets=int(redirected * swing * length / 8),
            limited_packets=int(numbers[0] * limited),
            limited_octets=int(numbers[1] * limited),
        )
    of.redirected_octets = sum(of.samples.values_list("redirected_octets", flat=True))
    of.redirected_packets = of.redirected_octets // octets
    of.dropped_packets, of.dropped_octets, of.passed_packets, of.passed_octets = totals
    of.counted_at = now
    of.hitting_at = start + timedelta(seconds=1.02) if dropped else None
    of.save()
    for rule, (_, drops, part) in zip(Rule.objects.filter(mitigations=of).order_by("pk"), SHIELD, strict=True):
        rule.packets = int((totals[0] if drops else totals[2]) * part)
        rule.octets = int((totals[1] if drops else totals[3]) * part)
        rule.save(update_fields=["packets", "octets"])


def acl(
    of: Client,
    name: str,
    matches: list[dict[str, Any]],
    *,
    now: datetime,
    action: str = "drop",
    rate: str = "",
    activation: int = 2,
    age: float = 3600,
    **values: Any,
) -> Acl:
    """A list that its client wrote `age` seconds ago over the data channel; with `rate` its first entry has that limit."""
    actions: list[dict[str, str]] = [{"forwarding": f"ietf-access-control-list:{action}"} for _ in matches]
    if rate:
        actions[0] = {"forwarding": "ietf-access-control-list:accept", "rate-limit": rate}
    both = zip(matches, actions, strict=True)
    aces = [{"name": f"entry-{i}", "matches": one, "actions": done} for i, (one, done) in enumerate(both, start=1)]
    at = now - timedelta(seconds=age)
    made = Acl.objects.create(
        client=of,
        cuid="dz6pHjaADkaFTbjr0JGBpw",
        name=name,
        activation_type=activation,
        aces=aces,
        ace_count=len(aces),
        **{"created_at": at, "changed_at": at, "refreshed_at": at, "expires_at": at + timedelta(days=7)} | values,
    )
    Audit.objects.create(
        at=at,
        door="data",
        actor=f"client {of.pk}",
        action="acl-create",
        subject=f"acl {of.pk}/{made.cuid}/{name}",
        after={"entries": len(aces)},
    )
    return made


def enforce(of: Acl, at: EnforcementPoint, *, now: datetime, bits: float = 0.0, dropped: float = 1.0) -> None:
    """As the enforcer leaves it: read back at the point, with a quarter of an hour of such traffic in its counters.

    `dropped` is the share of the traffic that entries which drop met; entries met it the less, the later they stand.
    """
    steps = 90 if bits else 0
    octets = int(bits * 10 / 8)
    for step in range(steps):
        some = int(octets * (1 + 0.2 * math.sin(step / 5)))
        numbers = {"dropped_octets": int(some * dropped), "passed_octets": int(some * (1 - dropped))}
        packets = {name.replace("octets", "packets"): number // 500 for name, number in numbers.items()}
        ended = now - timedelta(seconds=10 * (steps - 1 - step))
        AclSample.objects.create(acl=of, at=ended, seconds=10.0, **numbers, **packets)
    for number, ace in enumerate(of.aces):
        some = int(octets * steps / 2 ** (number + 1)) if number < 12 else 0
        EnforcedAce.objects.create(
            point=at,
            acl=of,
            ace=ace["name"],
            key=f"{of.pk:08x}{number:08x}",
            text="",
            drops=ace["actions"]["forwarding"].endswith("drop"),
            state=EnforcedAce.State.INSTALLED,
            since=of.created_at,
            installed_at=of.created_at + timedelta(seconds=0.4),
            packets=some // 500,
            octets=some,
            epoch="1" if at.counts else "",
            read_at=now,
        )


def go_on(*, now: datetime) -> None:
    """What the enforcer's next reading finds: everything goes on as in the last ten seconds."""
    EnforcementPoint.objects.update(health_at=now)
    for of in Mitigation.objects.live().exclude(counted_at=None):
        last = of.samples.order_by("-at").first()
        seconds = (now - of.counted_at).total_seconds()
        if last is None or seconds <= 0:
            continue
        grown = {name: int(getattr(last, name) * seconds / max(last.seconds, 0.5)) for name in Sample.COUNTS}
        Sample.objects.create(mitigation=of, at=now, seconds=seconds, **grown)
        for name in Sample.COUNTS[:4]:
            setattr(of, name, getattr(of, name) + grown[name])
        of.counted_at = now
        of.save()


def end(of: Mitigation, *, at: datetime, reason: str = "") -> None:
    of.status, of.status_reason, of.ended_at, of.expires_at = int(Status.TERMINATED), reason, at, None
    of.save()
    of.targets.all().delete()
    Rule.objects.filter(mitigations=of).delete()
    transition(of, Status.TERMINATING, Status.TERMINATED, "grace-elapsed", actor="server", at=at)
