"""A mitigation as a row shows it: every string ready, so that templates decide nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.urls import reverse

from mitigation.dashboard import evidence, formats, proof, sparklines, states, traffic
from mitigation.dashboard.formats import Figure
from mitigation.models import Mitigation
from mitigation.models.mitigations import INDEFINITE
from mitigation.protocol.status import Status

SPARK_SECONDS, SPARK_STEP = 900, 20
SOON = 300  # seconds left from which an ending is said in the colour of warning

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 58: "icmpv6", 132: "sctp"}


@dataclass(frozen=True, slots=True)
class Countdown:
    """Until when, in milliseconds of Unix time, from when the bar drains, and the text at the time of rendering."""

    until: int | None
    start: int | None
    text: str
    is_soon: bool = False
    filled: str = "0"  # of the bar's 56 units

    @property
    def empty(self) -> str:
        return f"{56 - float(self.filled):.1f}"


@dataclass(frozen=True, slots=True)
class MitigationRow:
    pk: int
    mitigation: Mitigation
    evidence: evidence.Evidence
    state: states.State
    chain: proof.Chain
    target: str
    more_targets: int
    context: str
    spark: sparklines.Sparkline | None
    reading: traffic.Reading | None
    rates: traffic.Rates | None
    now: Figure
    peak: Figure
    dropped: Figure
    dropped_share: Figure
    countdown: Countdown
    version: str

    @property
    def key(self) -> str:
        return f"mitigation-{self.pk}"

    @property
    def url(self) -> str:
        return reverse("mitigation", args=[self.pk])

    @property
    def stop_url(self) -> str:
        return reverse("stop", args=[self.pk])

    @property
    def approve_url(self) -> str:
        return reverse("approve", args=[self.pk])

    @property
    def reject_url(self) -> str:
        return reverse("reject", args=[self.pk])

    @property
    def needs_approval(self) -> bool:
        return self.mitigation.needs_approval

    @property
    def dropped_total(self) -> Figure:
        if self.mitigation.dropped_octets is None:
            return Figure(formats.NO_COUNTERS)
        return formats.octets(self.mitigation.dropped_octets)

    @property
    def can_stop(self) -> bool:
        return self.mitigation.is_live and self.mitigation.status not in (Status.WITHDRAWN, Status.TERMINATED)

    @property
    def is_over(self) -> bool:
        return self.state.shape == "ended"


def build(mitigations: Collection[Mitigation], now: datetime) -> list[MitigationRow]:
    """Rows in the order given; each mitigation with its client and domain already loaded."""
    facts = evidence.gather(mitigations)
    readings = [found for m in mitigations if (found := evidence.reading(m, facts[m.pk], now)) is not None]
    present = traffic.present(readings, now)
    peaks = traffic.peaks([reading.pk for reading in readings])
    series = traffic.by_owner(readings, seconds=SPARK_SECONDS, step=SPARK_STEP, now=now)
    rows = []
    for mitigation in mitigations:
        known, rates = facts[mitigation.pk], present.get(mitigation.pk)
        target, more = target_of(mitigation.scope)
        key = (mitigation.pk, mitigation.requested_at)
        peak = traffic.highest.of(key, peaks.get(mitigation.pk), rates.bits if rates else None)
        rows.append(
            MitigationRow(
                pk=mitigation.pk,
                mitigation=mitigation,
                evidence=known,
                state=states.of_mitigation(mitigation, known, now),
                chain=proof.chain(mitigation, known, now),
                target=target,
                more_targets=more,
                context=narrowing(mitigation.scope),
                spark=sparklines.draw(series.get(mitigation.pk)),
                reading=next((one for one in readings if one.pk == mitigation.pk), None),
                rates=rates,
                now=_or_why(formats.bit_rate(rates.bits) if rates else None, known),
                peak=formats.bit_rate(peak),
                dropped=_or_why(formats.bit_rate(rates.dropped_bits) if rates else None, known),
                dropped_share=share_of(rates, known),
                countdown=countdown(mitigation, now),
                version=version(mitigation),
            )
        )
    return rows


def _or_why(figure: Figure | None, known: evidence.Evidence) -> Figure:
    if figure is not None:
        return figure
    return Figure(formats.NO_COUNTERS if known.points and not known.counts else formats.NO_DATA)


def share_of(rates: traffic.Rates | None, known: evidence.Evidence) -> Figure:
    if rates is None:
        return _or_why(None, known)
    return formats.share(rates.dropped_bits, rates.bits) if rates.bits else Figure("0", "%")


def version(mitigation: Mitigation) -> str:
    """Changes when what an operator would decide about changes; a dialog that is open then asks again."""
    moments = (mitigation.ends_at, mitigation.ended_at)
    approved = f"{len(mitigation.approvals)}{'' if mitigation.approved_at else 'w'}"
    times = (str(formats.milliseconds(at)) if at else "" for at in moments)
    return "-".join((str(mitigation.status), *times, approved))


def target_of(scope: dict[str, Any]) -> tuple[str, int]:
    """The first target as a title says it (a host without its length), and how many more there are."""
    names = [_title(prefix) for prefix in scope.get("target-prefix", ())]
    for attribute in ("target-fqdn", "target-uri", "alias-name"):
        names += scope.get(attribute, ())
    return (names[0], len(names) - 1) if names else ("no target", 0)


def _title(prefix: str) -> str:
    network = ipaddress.ip_network(prefix, strict=False)
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def narrowing(scope: dict[str, Any]) -> str:
    """Protocols and ports: `tcp 80, 443`; empty when neither narrows the scope."""
    protocols = ", ".join(_PROTOCOLS.get(number, f"protocol {number}") for number in scope.get("target-protocol", ()))
    ports = ", ".join(
        str(ports["lower-port"])
        if ports["lower-port"] == ports["upper-port"]
        else f"{ports['lower-port']}-{ports['upper-port']}"
        for ports in scope.get("target-port-range", ())
    )
    if ports and not protocols:
        return f"port {ports}"
    return f"{protocols} {ports}".strip()


def countdown(mitigation: Mitigation, now: datetime) -> Countdown:
    if mitigation.ended_at is not None:
        return Countdown(None, None, formats.moment(mitigation.ended_at, now))
    if mitigation.needs_approval and mitigation.approve_by is not None:
        return until(mitigation.approve_by, mitigation.domain.approval_within, now)
    remaining = mitigation.remaining(now)
    if remaining == INDEFINITE:
        return Countdown(None, None, "no end")
    end = mitigation.ends_at or mitigation.expires_at
    if end is None:
        return Countdown(None, None, "")
    return until(end, mitigation.last_grace if mitigation.is_ending else mitigation.lifetime, now)


def until(end: datetime, whole: int, now: datetime) -> Countdown:
    """`whole` is what the bar is long, in seconds."""
    remaining = max(0, round((end - now).total_seconds()))
    start = formats.milliseconds(end) - 1000 * whole
    filled = 56.0 * min(1.0, remaining / whole) if whole > 0 else 0.0
    return Countdown(formats.milliseconds(end), start, formats.left(remaining), remaining < SOON, f"{filled:.1f}")
