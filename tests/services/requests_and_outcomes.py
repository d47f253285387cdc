"""Requests as values, and outcomes as what they should be."""

from __future__ import annotations

from mitigation.protocol.scope import MitigationRequest, PortRange, Scope, parse_target_prefix
from mitigation.services.mitigations import Granted, Outcome, Refused


def request(
    mid: int = 1,
    *prefixes: str,
    cuid: str = "",
    lifetime: int = 3600,
    ports: tuple[tuple[int, int], ...] = (),
    protocols: tuple[int, ...] = (),
    fqdns: tuple[str, ...] = (),
    uris: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
) -> MitigationRequest:
    default = () if fqdns or uris or aliases else ("198.51.100.7/32",)
    scope = Scope(
        target_prefix=tuple(parse_target_prefix(text) for text in prefixes or default),
        target_port_range=tuple(PortRange(*pair) for pair in ports),
        target_protocol=protocols,
        target_fqdn=fqdns,
        target_uri=uris,
        alias_name=aliases,
    )
    return MitigationRequest(cuid=cuid or "cuid-of-alice", mid=mid, scope=scope, lifetime=lifetime)


def granted(outcome: Outcome) -> Granted:
    assert isinstance(outcome, Granted), outcome
    return outcome


def refused(outcome: Outcome) -> Refused:
    assert isinstance(outcome, Refused), outcome
    return outcome
