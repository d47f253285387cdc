"""What a client may keep on the data channel: its own destinations, what equipment can do, nothing against others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from mitigation.exceptions import MalformedRequest, Unavailable
from mitigation.models import Acl, Client, EnforcementPoint
from mitigation.protocol.acls import (
    Ace,
    Forwarding,
    IcmpMatch,
    TcpMatch,
    UdpMatch,
    check_capabilities,
    parse_ace,
)
from mitigation.protocol.acls import Acl as AclValue
from mitigation.protocol.aliases import Alias
from mitigation.protocol.edits import Taken
from mitigation.protocol.filters import ActivationType
from mitigation.protocol.matches import PortMatch
from mitigation.protocol.scope import Scope, covered_by
from mitigation.protocol.trees import INVALID, Path, TreeFault, entry
from mitigation.services import points
from mitigation.services.filters import RETRY_AFTER
from mitigation.services.scopes import Allowed

log = logging.getLogger(__name__)

NOT_AUTHORIZED = "dots-target-not-authorized"
LAST_PORT = 65_535


class Contradiction(Taken):
    """Other clients of the domain say the opposite for the same traffic (RFC 8783, section 7.2: 409), in `theirs`."""

    def __init__(self, path: Path, sentence: str, theirs: Sequence[Acl]) -> None:
        super().__init__(path, sentence)
        self.theirs = theirs


def alias_is_ours(alias: Alias, allowed: Allowed, path: Path) -> None:
    """Raises TreeFault at the first target that is not the domain's (RFC 8783, section 6.1)."""
    target = alias.target
    for prefix in target.target_prefix:
        if not covered_by(prefix, allowed.prefixes):
            where = (*path, entry("target-prefix", ".", str(prefix)))
            raise TreeFault(INVALID, where, f"{prefix} is outside the client domain", app_tag=NOT_AUTHORIZED)
    for name, scopes in (
        ("target-fqdn", {text: Scope(target_fqdn=(text,)) for text in target.target_fqdn}),
        ("target-uri", {text: Scope(target_uri=(text,)) for text in target.target_uri}),
    ):
        for text, scope in scopes.items():
            try:
                allowed.check(scope)
            except MalformedRequest as error:
                raise TreeFault(INVALID, (*path, entry(name, ".", text)), str(error), app_tag=NOT_AUTHORIZED) from None


def acl_is_ours(acl: AclValue, allowed: Allowed, above: Path) -> None:
    """Raises TreeFault for a destination that is not wholly the domain's (RFC 8783, section 10)."""
    for ace in acl.aces:
        ip = ace.matches.ip
        if ip is not None and ip.destination is not None and not covered_by(ip.destination, allowed.prefixes):
            leaf = f"destination-ipv{ip.family}-network"
            where = (*_path(acl, ace, above), "matches", f"ipv{ip.family}", leaf)
            sentence = f"{ip.destination} is outside the client domain"
            raise TreeFault(INVALID, where, sentence, app_tag=NOT_AUTHORIZED)


def acl_is_possible(acl: AclValue, above: Path) -> None:
    """Raises TreeFault for what no equipment here can do: a filter that does not filter protects nobody."""
    try:
        check_capabilities(acl, capabilities())
    except TreeFault as fault:
        raise TreeFault(fault.tag, (*above, *fault.path), str(fault), app_tag=fault.app_tag) from None


def works_at_once(acl: AclValue) -> None:
    """Raises Unavailable while an immediate filter could not be put in force."""
    if acl.activation is ActivationType.IMMEDIATE and points.any_is_down():
        raise Unavailable("the filter cannot be put in force now: its equipment is down", retry_after=RETRY_AFTER)


def contradicts_nobody(acl: AclValue, client: Client, above: Path, *, now: datetime) -> None:
    """Raises Contradiction for an entry whose traffic another client of the domain treats the opposite way.

    Overlapping source, destination and transport, one accepts what the other drops (RFC 8783, section 3.1).
    """
    rows = Acl.objects.current(now).filter(client__domain=client.domain_id).exclude(client=client)
    found: list[tuple[Ace, Acl]] = []
    for row in rows.only("pk", "client_id", "cdid", "cuid", "name", "changed_at", "refreshed_at"):
        theirs = _aces_of(row)
        ace = next((one for one in acl.aces if any(_contradict(one, other) for other in theirs)), None)
        if ace is not None:
            found.append((ace, row))
    if found:
        ace, row = found[0]
        # Whose it is, and what it is called, the client is not told: nowhere else does it read what others wrote.
        sentence = "another client of the domain does the opposite with the same traffic"
        log.info("a filter of client %s contradicts filter %s of client %s", client, row.pk, row.client_id)
        raise Contradiction(_path(acl, ace, above), sentence, [row for _, row in found])


def capabilities() -> dict[str, Any]:
    """What filters may match and do here (RFC 8783, section 7.1): what every enforcement point in use can."""
    found: dict[str, Any] = {}
    rows = EnforcementPoint.objects.filter(enabled=True).order_by("pk")
    for at, tree in enumerate(rows.values_list("filter_capabilities", flat=True)):
        found = _common(found, tree) if at else tree
    return found


def _common(one: Any, other: Any) -> Any:
    """What both trees promise."""
    if isinstance(one, dict):
        return {name: _common(value, other[name]) for name, value in one.items() if name in other}
    return [value for value in one if value in other] if isinstance(one, list) else one and other


def _path(acl: AclValue, ace: Ace, above: Path) -> Path:
    return (*above, entry("acl", "name", acl.name), "aces", entry("ace", "name", ace.name))


# -- contradictions ---------------------------------------------------------------------------------------------------


def _aces_of(row: Acl) -> tuple[Ace, ...]:
    """Parsed once for each state of the row: a domain's lists hold thousands of entries."""
    return _parsed(row.pk, row.changed_at or row.refreshed_at)


@lru_cache(maxsize=4_096)
def _parsed(pk: int, stamp: datetime) -> tuple[Ace, ...]:
    """The entries of the row as it is since `stamp`; read from the database only when they are not known."""
    aces = Acl.objects.filter(pk=pk).values_list("aces", flat=True).first()
    return tuple(map(parse_ace, aces or ()))


def _contradict(one: Ace, other: Ace) -> bool:
    if (one.action.forwarding is Forwarding.DROP) == (other.action.forwarding is Forwarding.DROP):
        return False
    mine, theirs = one.matches.ip, other.matches.ip
    if mine is not None and theirs is not None:
        if mine.family != theirs.family:
            return False
        for a, b in ((mine.source, theirs.source), (mine.destination, theirs.destination)):
            if a is not None and b is not None and not a.overlaps(b):  # type: ignore[arg-type]  # of one family
                return False
    return _transports_meet(one, other)


def _transports_meet(one: Ace, other: Ace) -> bool:
    first, second = _protocol(one), _protocol(other)
    if first is not None and second is not None and first != second:
        return False
    a, b = one.matches.transport, other.matches.transport
    if isinstance(a, TcpMatch | UdpMatch) and isinstance(b, TcpMatch | UdpMatch):
        return _ports_meet(a.source_ports, b.source_ports) and _ports_meet(a.destination_ports, b.destination_ports)
    if isinstance(a, IcmpMatch) and isinstance(b, IcmpMatch):
        return all(x is None or y is None or x == y for x, y in ((a.type, b.type), (a.code, b.code)))
    return True


def _protocol(ace: Ace) -> int | None:
    match ace.matches.transport:
        case TcpMatch():
            return 6
        case UdpMatch():
            return 17
        case IcmpMatch():
            return 58 if ace.matches.ip is not None and ace.matches.ip.family == 6 else 1
    return ace.matches.ip.protocol if ace.matches.ip is not None else None


def _ports_meet(one: PortMatch | None, other: PortMatch | None) -> bool:
    if one is None or other is None:
        return True
    return any(low <= last and first <= high for low, high in _ranges(one) for first, last in _ranges(other))


def _ranges(ports: PortMatch) -> list[tuple[int, int]]:
    match ports.operator:
        case "lte":
            return [(0, ports.lower)]
        case "gte":
            return [(ports.lower, LAST_PORT)]
        case "neq":
            return [(0, ports.lower - 1), (ports.lower + 1, LAST_PORT)]
    return [(ports.lower, ports.upper)]
