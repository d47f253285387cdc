"""The rows that dashboard tests look at: alice's domain under attack, bob beside her, and what the enforcer found.

Documentation addresses and names alone. Times are relative to a `now` that the caller gives.
"""

from __future__ import annotations

import ipaddress
import math
from datetime import datetime, timedelta
from typing import Any

from mitigation.models import (
    Client,
    Credential,
    Domain,
    DomainPrefix,
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
        version="DTLS 1.2" if transport == "udp" else "TLS 1.3",
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
    of: Mitigation, *, now: datetime, dropped: float, passed: float, octets: int = 900, waves: float = 0.0
) -> None:
    """Samples of ten seconds since the installation, at so many bits per second, and the totals of rules and row."""
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
        )
    of.dropped_packets, of.dropped_octets, of.passed_packets, of.passed_octets = totals
    of.counted_at = now
    of.hitting_at = start + timedelta(seconds=1.02) if dropped else None
    of.save()
    for rule, (_, drops, part) in zip(Rule.objects.filter(mitigations=of).order_by("pk"), SHIELD, strict=True):
        rule.packets = int((totals[0] if drops else totals[2]) * part)
        rule.octets = int((totals[1] if drops else totals[3]) * part)
        rule.save(update_fields=["packets", "octets"])


def go_on(*, now: datetime) -> None:
    """What the enforcer's next reading finds: everything goes on as in the last ten seconds."""
    EnforcementPoint.objects.update(health_at=now)
    for of in Mitigation.objects.live().exclude(counted_at=None):
        last = of.samples.order_by("-at").first()
        seconds = (now - of.counted_at).total_seconds()
        if last is None or seconds <= 0:
            continue
        grown = {
            name: int(getattr(last, name) * seconds / max(last.seconds, 0.5))
            for name in ("dropped_packets", "dropped_octets", "passed_packets", "passed_octets")
        }
        Sample.objects.create(mitigation=of, at=now, seconds=seconds, **grown)
        for name, more in grown.items():
            setattr(of, name, getattr(of, name) + more)
        of.counted_at = now
        of.save()


def end(of: Mitigation, *, at: datetime, reason: str = "") -> None:
    of.status, of.status_reason, of.ended_at, of.expires_at = int(Status.TERMINATED), reason, at, None
    of.save()
    of.targets.all().delete()
    Rule.objects.filter(mitigations=of).delete()
    transition(of, Status.TERMINATING, Status.TERMINATED, "grace-elapsed", actor="server", at=at)
