"""Trees of aliases and filters that suit a cast's domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.harness.product import Cast
from tests.harness.rest import MODULE, Rest

Connect = Callable[..., Rest]

ACCEPT, DROP = "ietf-access-control-list:accept", "ietf-access-control-list:drop"
IPV4, IPV6 = "ietf-access-control-list:ipv4-acl-type", "ietf-access-control-list:ipv6-acl-type"


def alias(cast: Cast, name: str = "web", **members: Any) -> dict[str, Any]:
    tree = {"name": name, "target-prefix": [f"{cast.domain.host}/32"], **_hyphens(members)}
    return {member: value for member, value in tree.items() if value is not None}


def ace(
    cast: Cast, name: str = "one", *, action: str = DROP, rate: str | None = None, **matches: Any
) -> dict[str, Any]:
    """Of one host of the domain unless `ipv4` or `ipv6` says otherwise."""
    if not {"ipv4", "ipv6"} & set(matches):
        matches = {"ipv4": {"destination-ipv4-network": f"{cast.domain.host}/32"}, **matches}
    actions = {"forwarding": action} | ({"rate-limit": rate} if rate is not None else {})
    return {"name": name, "matches": matches, "actions": actions}


def acl(cast: Cast, name: str = "drops", *aces: dict[str, Any], **members: Any) -> dict[str, Any]:
    tree = {"name": name, "type": IPV4, "aces": {"ace": list(aces or [ace(cast)])}, **_hyphens(members)}
    return {member: value for member, value in tree.items() if value is not None}


def _hyphens(members: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in members.items()}


__all__ = ["ACCEPT", "DROP", "Connect", "IPV4", "IPV6", "MODULE", "ace", "acl", "alias"]
