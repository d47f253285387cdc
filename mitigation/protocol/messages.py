"""Bodies of /mitigate and /hb: values to application/dots+cbor and back, for server and client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

from mitigation.exceptions import MalformedRequest
from mitigation.protocol import body as bodies
from mitigation.protocol.conflicts import ConflictInformation
from mitigation.protocol.constants import INDEFINITE_LIFETIME, MAXIMUM_LIFETIME
from mitigation.protocol.filters import AclControl
from mitigation.protocol.filters import parse as parse_acls
from mitigation.protocol.paths import Path
from mitigation.protocol.scope import MitigationRequest, PortRange, Scope, parse_target_prefix
from mitigation.protocol.targets import parse_target_fqdn, parse_target_uri

_TARGETS = ("target-prefix", "target-fqdn", "target-uri", "alias-name")
_IN_A_REQUEST = frozenset(
    {
        *_TARGETS,
        "target-port-range",
        "target-protocol",
        "lifetime",
        "trigger-mitigation",
        "attack-status",
        "ietf-dots-signal-control:acl-list",
    }
)

MAXIMUM_TARGETS = 256  # of each attribute; a client with more sends several requests (RFC 9132, section 7.3)


# -- requests ---------------------------------------------------------------------------------------------------------


def decode_mitigation(payload: bytes, path: Path) -> MitigationRequest:
    """A PUT on /mitigate (section 4.4.1). Raises MalformedRequest."""
    if path.cuid is None or path.mid is None:
        raise MalformedRequest("the path lacks " + ("cuid" if path.cuid is None else "mid"))
    message = bodies.decode_request(payload, message_type="mitigation-scope")
    scopes = message.pop("scope", None)
    if scopes is None or message:
        raise MalformedRequest("mitigation-scope holds scope and nothing else")
    if len(scopes) != 1:
        raise MalformedRequest(f"scope has {len(scopes)} entries, one is expected")
    entry = scopes[0]
    _refuse_unexpected(entry)
    _refuse_empty(entry)
    scope = _scope(entry)
    return MitigationRequest(
        cuid=path.cuid,
        mid=path.mid,
        scope=scope,
        lifetime=_lifetime(entry),
        trigger_mitigation=entry.get("trigger-mitigation", True),
        attack_status=_attack_status(entry),
        cdid=path.cdid or "",
        acls=_acls(entry),
    )


def _refuse_unexpected(entry: Mapping[str, Any]) -> None:
    for name in entry:
        if name in ("cuid", "cdid"):
            raise MalformedRequest(f"{name} belongs in the path, not in the body")
        if name not in _IN_A_REQUEST:
            raise MalformedRequest(f"{name} has no place in a mitigation request")


def _refuse_empty(entry: Mapping[str, Any]) -> None:
    for name, value in entry.items():
        items = value if isinstance(value, list) else [value]
        if not items or any(item in ("", {}) for item in items):
            raise MalformedRequest(f"{name} is empty")


def _scope(entry: Mapping[str, Any]) -> Scope:
    if not any(name in entry for name in _TARGETS):
        raise MalformedRequest("a target is missing: target-prefix, target-fqdn, target-uri or alias-name")
    for name, value in entry.items():
        if isinstance(value, list) and len(value) > MAXIMUM_TARGETS:
            raise MalformedRequest(f"{name} has {len(value)} entries, at most {MAXIMUM_TARGETS} fit in one request")
    protocols = tuple(dict.fromkeys(entry.get("target-protocol", ())))
    if any(protocol > 255 for protocol in protocols):
        raise MalformedRequest("target-protocol is above 255")
    return Scope(
        target_prefix=tuple(dict.fromkeys(map(parse_target_prefix, entry.get("target-prefix", ())))),
        target_port_range=_port_ranges(entry.get("target-port-range", ())),
        target_protocol=protocols,
        target_fqdn=tuple(dict.fromkeys(map(parse_target_fqdn, entry.get("target-fqdn", ())))),
        target_uri=_uris(entry.get("target-uri", ())),
        alias_name=tuple(dict.fromkeys(entry.get("alias-name", ()))),
    )


def _uris(texts: Iterable[str]) -> tuple[str, ...]:
    """As received, each once; what they stand for is read from them again where it is needed."""
    unique = tuple(dict.fromkeys(texts))
    for text in unique:
        parse_target_uri(text)
    return unique


def _port_ranges(entries: Iterable[Mapping[str, Any]]) -> tuple[PortRange, ...]:
    ranges: dict[int, PortRange] = {}
    for entry in entries:
        if set(entry) - {"lower-port", "upper-port"}:
            raise MalformedRequest("target-port-range holds lower-port and upper-port only")
        if "lower-port" not in entry:
            raise MalformedRequest("target-port-range lacks lower-port")
        lower = entry["lower-port"]
        upper = entry.get("upper-port", lower)
        if lower > 65_535 or upper > 65_535:
            raise MalformedRequest("a port is above 65535")
        if upper < lower:
            raise MalformedRequest(f"upper-port {upper} is below lower-port {lower}")
        if lower in ranges:
            raise MalformedRequest(f"two port ranges begin at lower-port {lower}")
        ranges[lower] = PortRange(lower, upper)
    return tuple(ranges.values())


def _attack_status(entry: Mapping[str, Any]) -> int | None:
    status: int | None = entry.get("attack-status")
    if status is not None and status not in set(AttackStatus):
        raise MalformedRequest(f"attack-status {status} is neither 1 (under attack) nor 2 (mitigated)")
    return status


def _acls(entry: Mapping[str, Any]) -> tuple[AclControl, ...]:
    if "ietf-dots-signal-control:acl-list" in entry and "attack-status" in entry:
        raise MalformedRequest("an efficacy update switches no filters")
    return parse_acls(entry.get("ietf-dots-signal-control:acl-list", ()))


def _lifetime(entry: Mapping[str, Any]) -> int | None:
    if "lifetime" not in entry:
        if "attack-status" in entry:
            return None  # Figure 16 of the RFC shows an efficacy update without
        raise MalformedRequest("lifetime is missing")
    lifetime: int = entry["lifetime"]
    if lifetime == 0:
        raise MalformedRequest("lifetime is 0")
    if lifetime < INDEFINITE_LIFETIME or lifetime > MAXIMUM_LIFETIME:
        raise MalformedRequest(f"lifetime is not -1 and not between 1 and {MAXIMUM_LIFETIME}")
    return lifetime


def encode_mitigation(request: MitigationRequest) -> bytes:
    """The body of a PUT, as a client sends it."""
    entry = _scope_values(request.scope)
    if request.lifetime is not None:
        entry["lifetime"] = request.lifetime
    if request.attack_status is not None:
        entry["attack-status"] = request.attack_status
    if not request.trigger_mitigation:
        entry["trigger-mitigation"] = False
    if request.acls:
        entry["ietf-dots-signal-control:acl-list"] = [one.as_json() for one in request.acls]
    return bodies.encode({"mitigation-scope": {"scope": [entry]}})


def _scope_values(scope: Scope) -> dict[str, Any]:
    values = scope.as_json()
    if "target-port-range" in values:
        values["target-port-range"] = [
            {"lower-port": ports.lower}
            if ports.lower == ports.upper
            else {"lower-port": ports.lower, "upper-port": ports.upper}
            for ports in scope.target_port_range
        ]
    return values


class Content(Enum):
    """Which part of a mitigation is asked for: Uri-Query c= (section 4.4.2, Table 2)."""

    CONFIGURATION = "c"
    STATE = "n"
    ALL = "a"


class AttackStatus(IntEnum):
    """Key 29: how the client sees the attack (section 4.4.3, Table 4)."""

    UNDER_ATTACK = 1
    MITIGATED = 2


# -- answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MitigationReport:
    """One entry of a status answer (section 4.4.2). Counters are None where nothing can count: left out, never 0.

    `mitigation_start` in seconds since 1970; `bps_dropped` in octets a second (YANG units), `lifetime` in seconds left.
    """

    mid: int
    status: int
    lifetime: int
    scope: Scope | None = None
    trigger_mitigation: bool = True
    mitigation_start: int | None = None
    bytes_dropped: int | None = None
    bps_dropped: int | None = None
    pkts_dropped: int | None = None
    pps_dropped: int | None = None
    conflict: ConflictInformation | None = None
    acls: tuple[AclControl, ...] = ()  # switched by others during the mitigation (RFC 9133)


def encode_grant(mid: int, lifetime: int, conflict: ConflictInformation | None = None) -> bytes:
    """The body of 2.01 and 2.04: what was granted (section 4.4.1.3, Figure 10)."""
    entry: dict[str, Any] = {"mid": mid, "lifetime": lifetime}
    if conflict is not None:
        entry["conflict-information"] = conflict_values(conflict)
    return bodies.encode({"mitigation-scope": {"scope": [entry]}})


def encode_conflict(conflict: ConflictInformation) -> bytes:
    """The body of 4.09 (section 4.4.1.3, Figure 11)."""
    return bodies.encode({"mitigation-scope": {"scope": [{"conflict-information": conflict_values(conflict)}]}})


def encode_failed_acls(mid: int, acls: Iterable[AclControl]) -> bytes:
    """The body of 5.03 when filters could not be switched (RFC 9133, section 3.2.1, Figure 1)."""
    entry = {"mid": mid, "ietf-dots-signal-control:acl-list": [one.as_json() for one in acls]}
    return bodies.encode({"mitigation-scope": {"scope": [entry]}})


def encode_redirection(alt_server: str, addresses: Iterable[str]) -> bytes:
    """The body of 5.03 that names another server (section 4.6, Figure 25)."""
    values: dict[str, Any] = {"alt-server": alt_server}
    if records := list(addresses):
        values["alt-server-record"] = records
    return bodies.encode({"redirected-signal": values})


def encode_reports(reports: Iterable[MitigationReport], content: Content = Content.ALL) -> bytes:
    """The body of 2.05 and of notifications (section 4.4.2, Figure 14). mid and lifetime are in every part."""
    return bodies.encode({"mitigation-scope": {"scope": [_report_values(report, content) for report in reports]}})


def _report_values(report: MitigationReport, content: Content) -> dict[str, Any]:
    values: dict[str, Any] = {"mid": report.mid}
    if report.mitigation_start is not None and content is not Content.CONFIGURATION:
        values["mitigation-start"] = report.mitigation_start
    if report.scope is not None and content is not Content.STATE:
        values |= _scope_values(report.scope)
        if not report.trigger_mitigation:
            values["trigger-mitigation"] = False
    values["lifetime"] = report.lifetime
    if content is not Content.CONFIGURATION:
        values |= _state_values(report)
    return values


def _state_values(report: MitigationReport) -> dict[str, Any]:
    values: dict[str, Any] = {"status": report.status}
    if report.conflict is not None:
        values["conflict-information"] = conflict_values(report.conflict)
    if report.acls:
        values["ietf-dots-signal-control:acl-list"] = [one.as_json() for one in report.acls]
    counters = {
        "bytes-dropped": report.bytes_dropped,
        "bps-dropped": report.bps_dropped,
        "pkts-dropped": report.pkts_dropped,
        "pps-dropped": report.pps_dropped,
    }
    return values | {name: count % 2**64 for name, count in counters.items() if count is not None}


def conflict_values(conflict: ConflictInformation) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if conflict.status is not None:
        values["conflict-status"] = int(conflict.status)
    values["conflict-cause"] = int(conflict.cause)
    if conflict.retry_timer is not None:
        values["retry-timer"] = conflict.retry_timer
    scope = _scope_values(conflict.scope) if conflict.scope is not None else {}
    if conflict.mid is not None:
        scope["mid"] = conflict.mid
    if conflict.acl_names:
        scope["acl-list"] = [{"acl-name": name} for name in conflict.acl_names]
    if scope:
        values["conflict-scope"] = scope
    return values


def decode_reports(payload: bytes) -> list[dict[str, Any]]:
    """Entries of a server's answer under RFC names; enumerations stay numbers. Raises MalformedRequest."""
    message = bodies.decode(payload).get("mitigation-scope")
    if not isinstance(message, dict) or not isinstance(message.get("scope"), list):
        raise MalformedRequest("the answer has no mitigation-scope with scope")
    entries: list[dict[str, Any]] = message["scope"]
    return entries


# -- heartbeat --------------------------------------------------------------------------------------------------------


def encode_heartbeat(*, peer_hb_status: bool) -> bytes:
    """The body of PUT /hb (section 4.7, Figure 27)."""
    return bodies.encode({"heartbeat": {"peer-hb-status": peer_hb_status}})


def decode_heartbeat(payload: bytes) -> bool:
    """peer-hb-status: whether the peer has heard us lately. Raises MalformedRequest."""
    message = bodies.decode_request(payload, message_type="heartbeat")
    if set(message) != {"peer-hb-status"}:
        raise MalformedRequest("heartbeat holds peer-hb-status and nothing else")
    status: bool = message["peer-hb-status"]
    return status
