"""Kinds of attack as they are reported, and the narrowest playbook that holds each of them back.

The names are what an operator, a detector or telemetry says. The playbook is where a mitigation begins, if its domain's
ladder has that rung; what the evidence does not hold, the counters decide from there on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """`why`: what makes this playbook the first that suits."""

    playbook: str
    meaning: str
    why: str


ATTACKS: dict[str, Attack] = {
    "udp-amplification": Attack(
        "shield",
        "answers of open services to spoofed requests",
        "they are known by their source port and their fragments (US-CERT TA14-017A); reported ports are added",
    ),
    "udp-fragments": Attack("shield", "UDP fragments without their first one", "later fragments are dropped"),
    "tcp-flags": Attack(
        "shield", "TCP with flags that no connection uses", "they are dropped (RFC 9293, section 3.10)"
    ),
    "syn-flood": Attack("shield", "new TCP connections from few sources", "they are limited for each source"),
    "udp-flood": Attack("shield", "UDP from few sources", "it is limited for each source"),
    "icmp-flood": Attack("shield", "ICMP from few sources", "it is limited for each source"),
    "spoofed-flood": Attack(
        "ratelimit",
        "packets from sources that change with each of them, or from very many",
        "no source comes near a limit of its own, so only the sum can be held",
    ),
    "volumetric": Attack("ratelimit", "more than the link or the host bears, of any kind", "only the sum can be held"),
    "application": Attack(
        "redirect",
        "requests that look like any others, of complete connections",
        "headers do not tell them from ordinary ones; a scrubber that speaks the protocol may",
    ),
    "unwanted": Attack(
        "discard",
        "traffic of which nobody needs anything, by protocol or port",
        "there is nothing to spare; the scope must be narrowed, or the domain's policy allow it",
    ),
}
