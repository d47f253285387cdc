"""Aliases as rows, for tests that are about something else than how they are made."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mitigation.models import Alias, Client
from mitigation.protocol.scope import Scope


def make_alias(
    client: Client, cuid: str, name: str, target: Mapping[str, Any], *, now: datetime, cdid: str = ""
) -> Alias:
    """`target` by RFC names."""
    scope = Scope.from_json(target).as_json()
    return Alias.objects.create(
        client=client, cdid=cdid, cuid=cuid, name=name, target=scope, created_at=now, changed_at=now
    )
