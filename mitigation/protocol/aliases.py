"""The tree of an alias, checked (RFC 8783, section 6.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mitigation.exceptions import MalformedRequest
from mitigation.protocol.scope import PortRange, Scope, parse_target_prefix
from mitigation.protocol.targets import parse_target_fqdn, parse_target_uri
from mitigation.protocol.trees import INVALID, MISSING, TreeFault, entry

LONGEST_NAME = 255
LAST_PORT, LAST_PROTOCOL = 65_535, 255


@dataclass(frozen=True, slots=True)
class Alias:
    """`tree` is the canonical form, as a GET returns it; `target` what it stands for."""

    name: str
    target: Scope
    tree: dict[str, Any]


def parse_alias(tree: Mapping[str, Any]) -> Alias:
    """`tree` with bare member names, of known members only. Raises TreeFault with a path below the alias."""
    name = tree["name"]
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_NAME:
        raise TreeFault(INVALID, ("name",), f"the name of an alias has 1 to {LONGEST_NAME} characters")
    if not (tree.get("target-prefix") or tree.get("target-fqdn") or tree.get("target-uri")):
        sentence = "an alias needs target-prefix, target-fqdn or target-uri"
        raise TreeFault(MISSING, (), sentence, app_tag="dots-target-missing")
    prefixes = _values(tree, "target-prefix", parse_target_prefix, app_tag="dots-prefix-invalid")
    ports = [_port_range(one) for one in tree.get("target-port-range", ())]
    protocols = _values(tree, "target-protocol", _protocol)
    fqdns = _values(tree, "target-fqdn", parse_target_fqdn)
    uris = _values(tree, "target-uri", lambda text: parse_target_uri(text) and text)
    target = Scope(
        target_prefix=tuple(prefixes),
        target_port_range=tuple(ports),
        target_protocol=tuple(protocols),
        target_fqdn=tuple(fqdns),
        target_uri=tuple(uris),
    )
    canonical: dict[str, Any] = {
        "name": name,
        "target-prefix": [str(prefix) for prefix in prefixes],
        "target-port-range": [dict(one) for one in tree.get("target-port-range", ())],
        "target-protocol": protocols,
        "target-fqdn": fqdns,
        "target-uri": uris,
    }
    return Alias(name, target, {member: value for member, value in canonical.items() if value})


def _values(tree: Mapping[str, Any], member: str, read: Callable[[Any], Any], app_tag: str = "") -> list[Any]:
    """Of a leaf-list, each once: configuration never holds a value twice (RFC 7950, section 7.7)."""
    found: list[Any] = []
    for value in tree.get(member, ()):
        path = (entry(member, ".", str(value)),)
        if member != "target-protocol" and not isinstance(value, str):
            raise TreeFault(INVALID, path, f"{member} holds strings")
        try:
            one = read(value)
        except MalformedRequest as error:
            raise TreeFault(INVALID, path, str(error), app_tag=app_tag) from None
        if one in found:
            raise TreeFault(INVALID, path, f"{member} holds {value!r} twice")
        found.append(one)
    return found


def _protocol(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LAST_PROTOCOL:
        raise MalformedRequest(f"target-protocol is a number from 0 to {LAST_PROTOCOL}")
    return value


def _port_range(values: Mapping[str, Any]) -> PortRange:
    step = entry("target-port-range", "lower-port", str(values["lower-port"]))
    for member in ("lower-port", "upper-port"):
        value = values.get(member, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LAST_PORT:
            raise TreeFault(INVALID, (step, member), f"{member} is a number from 0 to {LAST_PORT}")
    lower, upper = values["lower-port"], values.get("upper-port", values["lower-port"])
    if upper < lower:
        sentence = f"upper-port {upper} is below lower-port {lower}"
        raise TreeFault(INVALID, (step, "upper-port"), sentence, app_tag="must-violation")
    return PortRange(lower, upper)
