"""Lists of filters as rows, as the data channel leaves them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from mitigation.models import Acl, Client
from mitigation.protocol.filters import ActivationType

TO_US: dict[str, Any] = {"ipv4": {"destination-ipv4-network": "198.51.100.0/25"}}


def stored(
    client: Client,
    now: datetime,
    *matches: Any,
    name: str = "x",
    kind: int = ActivationType.IMMEDIATE,
    action: str = "drop",
    **values: Any,
) -> Acl:
    """One entry for each of `matches`, named r0, r1 and so on."""
    actions = {"forwarding": f"ietf-access-control-list:{action}"}
    aces = [{"name": f"r{at}", "matches": one, "actions": actions} for at, one in enumerate(matches or (TO_US,))]
    fields = {"created_at": now, "refreshed_at": now, "changed_at": now, "expires_at": now + timedelta(days=7)}
    row = {"client": client, "cuid": f"cuid-of-{client.name}", "name": name, "activation_type": kind, "aces": aces}
    return Acl.objects.create(**row | fields | {"ace_count": len(aces)} | values)
