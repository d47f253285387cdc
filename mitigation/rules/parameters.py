"""What a domain's policy may set in a playbook: defaults, where they come from, and checks with plain messages.

Policy values are plain JSON. What is not named keeps its default; an unknown name is an error, because a
misspelt limit that silently does nothing is found at three in the morning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from math import isfinite
from typing import Any

from mitigation.exceptions import DotsError
from mitigation.rules.scope import LAST_PORT, Network

HIGHEST_RATE = 10_000_000
HIGHEST_OCTETS = 12_500_000_000  # a second: 100 Gbit/s; the kernel's arithmetic ends at 18 * 10**9
LONGEST_BURST = 10  # seconds
LAST_MARK = 2**32 - 1
MOST_PORTS = 256
MOST_PREFIXES = 1024
MOST_INTERFACES = 16
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")


class BadParameter(DotsError):
    """A policy value that no playbook takes; the message names it."""


@dataclass(frozen=True)
class Parameter:
    """`read` turns the JSON value into the one used, or raises BadParameter; `source` says why this is the default."""

    name: str
    default: object
    meaning: str
    source: str
    read: Callable[[str, Any], Any]


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadParameter(f"{name} is true or false, not {value!r}")
    return value


def _whole(name: str, value: Any, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise BadParameter(f"{name} is a whole number from {lowest} to {highest}, not {value!r}")
    return value


def _rate(name: str, value: Any) -> int:
    return _whole(name, value, 0, HIGHEST_RATE)


def _burst(name: str, value: Any) -> int:
    return _whole(name, value, 1, HIGHEST_RATE)


def _number(name: str, value: Any, highest: int) -> int | float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if not is_number or not 0 <= value <= highest:
        raise BadParameter(f"{name} is a number from 0 to {highest}, not {value!r}")
    return value  # type: ignore[no-any-return]


def _packets_or_none(name: str, value: Any) -> int | float | None:
    return None if value is None else _number(name, value, HIGHEST_RATE)


def _octets_or_none(name: str, value: Any) -> int | float | None:
    return None if value is None else _number(name, value, HIGHEST_OCTETS)


def _seconds(name: str, value: Any) -> int | float:
    return _number(name, value, LONGEST_BURST)


def _mark(name: str, value: Any) -> int:
    return _whole(name, value, 1, LAST_MARK)


def _list(name: str, value: Any, most: int) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) > most:
        raise BadParameter(f"{name} is a list of at most {most} values, not {value!r}")
    return list(value)


def _ports(name: str, value: Any) -> tuple[int, ...]:
    return tuple(sorted({_whole(name, port, 0, LAST_PORT) for port in _list(name, value, MOST_PORTS)}))


def _interfaces(name: str, value: Any) -> tuple[str, ...]:
    names = _list(name, value, MOST_INTERFACES)
    for one in names:
        if not isinstance(one, str) or not _INTERFACE.fullmatch(one):
            raise BadParameter(f"{name}: {one!r} is no name of an interface")
    return tuple(sorted(set(names)))


def _prefixes(name: str, value: Any) -> tuple[Network, ...]:
    prefixes = {_prefix(name, text) for text in _list(name, value, MOST_PREFIXES)}
    return tuple(sorted(prefixes, key=lambda p: (p.version, int(p.network_address), p.prefixlen)))


def _prefix(name: str, text: Any) -> Network:
    if not isinstance(text, str):
        raise BadParameter(f"{name}: {text!r} is no prefix")
    try:
        return ip_network(text)
    except ValueError as error:
        raise BadParameter(f"{name}: {error}") from None


# UDP services that answer a small spoofed request with a large reply, by the port they answer from.
# "TA14-017A" is US-CERT alert TA14-017A, "UDP-Based Amplification Attacks". Of its list BitTorrent, Kad and Steam are
# left out: their ports vary, and ordinary clients use them.
AMPLIFICATION_PORTS: dict[int, str] = {
    17: "QOTD: TA14-017A, RFC 865",
    19: "CharGEN: TA14-017A, RFC 864",
    53: "DNS: TA14-017A, RFC 5358",
    69: "TFTP: TA14-017A",
    111: "portmap/RPC: TA14-017A",
    123: "NTP: TA14-017A and TA14-013A",
    137: "NetBIOS name service: TA14-017A",
    161: "SNMPv2: TA14-017A",
    389: "CLDAP: TA14-017A",
    520: "RIPv1: TA14-017A",
    1900: "SSDP: TA14-017A",
    3702: "WS-Discovery: abused since 2019, with factors above 100",
    5353: "multicast DNS answering unicast: TA14-017A, VU#550620",
    11211: "memcached: TA14-017A, CVE-2018-1000115",
    27960: "Quake III protocol: TA14-017A",
}

# Addresses that no packet from elsewhere can come from: not "Globally Reachable" in the IANA registries of
# special-purpose addresses (RFC 6890, RFC 8190). Left out on purpose: the documentation prefixes (RFC 5737, RFC 3849,
# RFC 9637), since examples and test networks run on them and attackers gain nothing by them; fe80::/10, since routers
# do not forward it and a protected host needs its neighbours (RFC 4861); 192.88.99.0/24 and 64:ff9b::/96, which are or
# were globally reachable.
BOGON_PREFIXES: dict[str, str] = {
    "0.0.0.0/8": "this network: RFC 791",
    "10.0.0.0/8": "private: RFC 1918",
    "100.64.0.0/10": "shared address space: RFC 6598",
    "127.0.0.0/8": "loopback: RFC 1122",
    "169.254.0.0/16": "link local: RFC 3927",
    "172.16.0.0/12": "private: RFC 1918",
    "192.0.0.0/24": "IETF protocol assignments: RFC 6890",
    "192.168.0.0/16": "private: RFC 1918",
    "198.18.0.0/15": "benchmarking: RFC 2544",
    "224.0.0.0/4": "multicast is never a source: RFC 1112",
    "240.0.0.0/4": "reserved and limited broadcast: RFC 1112, RFC 919",
    "::/128": "unspecified: RFC 4291",
    "::1/128": "loopback: RFC 4291",
    "::ffff:0:0/96": "IPv4-mapped: RFC 4291",
    "64:ff9b:1::/48": "local-use translation: RFC 8215",
    "100::/64": "discard-only: RFC 6666",
    "2001:2::/48": "benchmarking: RFC 5180",
    "2001:10::/28": "ORCHID, returned: RFC 4843",
    "5f00::/16": "segment routing SIDs: RFC 9602",
    "fc00::/7": "unique local: RFC 4193",
    "fec0::/10": "site local, deprecated: RFC 3879",
    "ff00::/8": "multicast is never a source: RFC 4291",
}

_SHIELD = (
    Parameter(
        "amplification_ports",
        tuple(AMPLIFICATION_PORTS),
        "UDP source ports whose packets are dropped; an empty list leaves the rule out",
        "US-CERT TA14-017A, see AMPLIFICATION_PORTS",
        _ports,
    ),
    Parameter(
        "bogon_prefixes",
        tuple(ip_network(prefix) for prefix in BOGON_PREFIXES),
        "source prefixes whose packets are dropped; take out those your own clients use; empty leaves the rule out",
        "RFC 6890 registries, see BOGON_PREFIXES",
        _prefixes,
    ),
    Parameter(
        "drop_fragments",
        True,
        "drop UDP fragments after the first",
        "amplified answers exceed the MTU and arrive as fragments without ports: RFC 8783, appendix A",
        _flag,
    ),
    Parameter(
        "drop_impossible_flags",
        True,
        "drop TCP flag combinations that no connection uses",
        "RFC 9293, section 3.10; SYN with FIN has no use since RFC 6247 retired T/TCP",
        _flag,
    ),
    Parameter(
        "syn_rate",
        50,
        "new TCP connections per second and source; 0 leaves the limit out",
        "ours: a browser opens some six per host at once, so eight people behind one address have room",
        _rate,
    ),
    Parameter(
        "syn_burst", 100, "new TCP connections a source may open at once", "ours: two seconds of the rate", _burst
    ),
    Parameter(
        "udp_rate",
        1000,
        "UDP packets per second and source; 0 leaves the limit out",
        "ours: 1,000 packets of 1,200 octets are 10 Mbit/s upwards in one QUIC connection (RFC 9000, section 14)",
        _rate,
    ),
    Parameter("udp_burst", 2000, "UDP packets a source may send at once", "ours: two seconds of the rate", _burst),
    Parameter(
        "icmp_rate",
        10,
        "ICMP packets per second and source, answers and neighbour discovery aside; 0 leaves the limit out",
        "ours: ping sends one a second, a trace a handful; routers answer at similar rates (RFC 4443, section 2.4 f)",
        _rate,
    ),
    Parameter("icmp_burst", 20, "ICMP packets a source may send at once", "ours: two seconds of the rate", _burst),
    Parameter(
        "stateful",
        True,
        "the equipment sees both directions, so answers to the protected host can be told from a flood",
        "false for a box that sees one direction only",
        _flag,
    ),
)
_WHOLE_HOST = Parameter(
    "allow_whole_host",
    False,
    "all traffic to a destination may be dropped, although that finishes the attacker's work",
    "needs the domain's consent",
    _flag,
)
_RETURN = Parameter(
    "redirect_return",
    (),
    "interfaces on which a scrubber gives back what it has cleaned: what comes from there is neither redirected again "
    "nor counted against a rate again",
    "ours: which one it is, only the operator knows; none is needed where it comes back behind this box",
    _interfaces,
)
_RATELIMIT = (
    Parameter(
        "limit_octets",
        None,
        "octets of IP packets a second that pass to the whole scope of a request; below 1 none do; null: no such limit",
        "ours: only the domain knows what its link and hosts bear, so without a rate the playbook is refused; the unit "
        "is that of rate-limit in RFC 8783, section 7.2, and of RFC 8955, section 7.1",
        _octets_or_none,
    ),
    Parameter(
        "limit_packets",
        None,
        "packets a second that pass to the whole scope of a request; below 1 none do; null: no such limit",
        "as for limit_octets; the unit is that of RFC 8955, section 7.2",
        _packets_or_none,
    ),
    Parameter(
        "limit_burst",
        0.1,
        "seconds of the rate that may come at once, and at least one packet of the largest size",
        "ours: a tenth of a second, some round trips of an ordinary connection, which sends what it may at once",
        _seconds,
    ),
    _RETURN,
    _WHOLE_HOST,
)
_REDIRECT = (
    Parameter(
        "redirect_mark",
        0x01000000,
        "what the mark of a packet to the scope is set to, for an ip rule that routes it to a scrubber",
        "ours: one of 15 values that the default mask leaves",
        _mark,
    ),
    Parameter(
        "redirect_mask",
        0x0F000000,
        "the bits of the mark that are set; all others stay as they are",
        "ours: bits 24 to 27, which the list of marks in use at https://github.com/fwmark/registry shows with software "
        "for container hosts only; the lowest bits are what people number their own rules with",
        _mark,
    ),
    _RETURN,
)
_DISCARD = (_WHOLE_HOST,)

PARAMETERS: dict[str, tuple[Parameter, ...]] = {
    "shield": _SHIELD,
    "ratelimit": _RATELIMIT,
    "redirect": _REDIRECT,
    "discard": _DISCARD,
}


def read_parameters(playbook: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of the playbook, checked. One policy may hold values for all playbooks. Raises BadParameter."""
    known = {parameter.name for parameters in PARAMETERS.values() for parameter in parameters}
    if unknown := sorted(set(given) - known):
        raise BadParameter(f"no playbook knows {', '.join(unknown)}")
    values: dict[str, Any] = {
        parameter.name: parameter.read(parameter.name, given[parameter.name])
        if parameter.name in given
        else parameter.default
        for parameter in PARAMETERS[playbook]
    }
    if values.get("redirect_mark", 0) & ~values.get("redirect_mask", 0):
        mark, mask = values["redirect_mark"], values["redirect_mask"]
        raise BadParameter(f"redirect_mark {mark:#x} has bits outside redirect_mask {mask:#x}")
    return values


def parse_parameter(text: str) -> tuple[str, Any]:
    """`NAME=VALUE` as an operator types it: the name, and a plain JSON value that is not checked yet.

    `0x10` is a number and `53,123` a list; `default` is None, which takes a value back. Raises BadParameter.
    """
    name, equals, words = text.partition("=")
    if name and words == "default":
        return name, None  # also of one that is not known any more
    parameter = next((one for some in PARAMETERS.values() for one in some if one.name == name), None)
    if not equals or parameter is None:
        known = ", ".join(sorted({one.name for some in PARAMETERS.values() for one in some}))
        raise BadParameter(f"{text[:60]}: write NAME=VALUE with a NAME of {known}")
    if isinstance(parameter.default, tuple) and not words.startswith("["):
        return name, [_plain(word.strip()) for word in words.split(",") if word.strip()]
    return name, _plain(words)


def _plain(word: str) -> Any:
    """A JSON value, a number with its base before it, or the word itself."""
    try:
        return json.loads(word)
    except ValueError:
        pass
    try:
        return int(word, 0)
    except ValueError:
        return word
