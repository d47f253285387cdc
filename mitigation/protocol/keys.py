"""CBOR keys of the signal channel (RFC 9132, section 6, Table 5) and what a receiver does with others.

A registry, so that RFC 9133, 9066, 9244 and 9362 add rows, not code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Type(Enum):
    """How a value stands on the wire; an exact match is required (section 6)."""

    MAP = "a map"
    MAPS = "an array of maps"
    TEXT = "a text string"
    TEXTS = "an array of text strings"
    UNSIGNED = "an unsigned integer"
    UNSIGNEDS = "an array of unsigned integers"
    INTEGER = "an integer"
    DECIMAL = "a decimal fraction"
    BOOLEAN = "a boolean"


@dataclass(frozen=True, slots=True)
class Key:
    number: int
    name: str
    type: Type
    from_server_only: bool = False  # config false in the YANG module: never in a client's request


_TABLE = (
    Key(1, "mitigation-scope", Type.MAP),
    Key(2, "scope", Type.MAPS),
    Key(3, "cdid", Type.TEXT),
    Key(4, "cuid", Type.TEXT),
    Key(5, "mid", Type.UNSIGNED, from_server_only=True),
    Key(6, "target-prefix", Type.TEXTS),
    Key(7, "target-port-range", Type.MAPS),
    Key(8, "lower-port", Type.UNSIGNED),
    Key(9, "upper-port", Type.UNSIGNED),
    Key(10, "target-protocol", Type.UNSIGNEDS),
    Key(11, "target-fqdn", Type.TEXTS),
    Key(12, "target-uri", Type.TEXTS),
    Key(13, "alias-name", Type.TEXTS),
    Key(14, "lifetime", Type.INTEGER),
    Key(15, "mitigation-start", Type.UNSIGNED, from_server_only=True),
    Key(16, "status", Type.UNSIGNED, from_server_only=True),
    Key(17, "conflict-information", Type.MAP, from_server_only=True),
    Key(18, "conflict-status", Type.UNSIGNED, from_server_only=True),
    Key(19, "conflict-cause", Type.UNSIGNED, from_server_only=True),
    Key(20, "retry-timer", Type.UNSIGNED, from_server_only=True),
    Key(21, "conflict-scope", Type.MAP, from_server_only=True),
    Key(22, "acl-list", Type.MAPS, from_server_only=True),
    Key(23, "acl-name", Type.TEXT),
    Key(24, "acl-type", Type.TEXT),
    Key(25, "bytes-dropped", Type.UNSIGNED, from_server_only=True),
    Key(26, "bps-dropped", Type.UNSIGNED, from_server_only=True),
    Key(27, "pkts-dropped", Type.UNSIGNED, from_server_only=True),
    Key(28, "pps-dropped", Type.UNSIGNED, from_server_only=True),
    Key(29, "attack-status", Type.UNSIGNED),
    Key(30, "signal-config", Type.MAP),
    Key(31, "sid", Type.UNSIGNED),
    Key(32, "mitigating-config", Type.MAP),
    Key(33, "heartbeat-interval", Type.MAP),
    Key(34, "max-value", Type.UNSIGNED, from_server_only=True),
    Key(35, "min-value", Type.UNSIGNED, from_server_only=True),
    Key(36, "current-value", Type.UNSIGNED),
    Key(37, "missing-hb-allowed", Type.MAP),
    Key(38, "max-retransmit", Type.MAP),
    Key(39, "ack-timeout", Type.MAP),
    Key(40, "ack-random-factor", Type.MAP),
    Key(41, "max-value-decimal", Type.DECIMAL, from_server_only=True),
    Key(42, "min-value-decimal", Type.DECIMAL, from_server_only=True),
    Key(43, "current-value-decimal", Type.DECIMAL),
    Key(44, "idle-config", Type.MAP),
    Key(45, "trigger-mitigation", Type.BOOLEAN),
    Key(46, "redirected-signal", Type.MAP, from_server_only=True),
    Key(47, "alt-server", Type.TEXT, from_server_only=True),
    Key(48, "alt-server-record", Type.TEXTS, from_server_only=True),
    Key(49, "heartbeat", Type.MAP),
    Key(50, "probing-rate", Type.MAP),
    Key(51, "peer-hb-status", Type.BOOLEAN),
    # RFC 9133, Table 1.
    Key(52, "activation-type", Type.UNSIGNED),
    Key(53, "ietf-dots-signal-control:acl-list", Type.MAPS),
)

BY_NUMBER: dict[int, Key] = {key.number: key for key in _TABLE}
BY_NAME: dict[str, Key] = {key.name: key for key in _TABLE}

# One message type at the top of a body (YANG choice message-type).
MESSAGE_TYPES = ("mitigation-scope", "signal-config", "redirected-signal", "heartbeat")


class Comprehension(Enum):
    REQUIRED = "required"
    OPTIONAL = "optional"
    INVALID = "invalid"


def comprehension(number: int) -> Comprehension:
    """What a receiver that does not know the key must do (RFC 9132, section 10.6.1.1; 128-255 became optional)."""
    if not 1 <= number <= 65_535:
        return Comprehension.INVALID
    if number <= 127 or 256 <= number <= 16_383:
        return Comprehension.REQUIRED
    return Comprehension.OPTIONAL
