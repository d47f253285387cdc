"""What a client keeps on the data channel: changed as a whole or not at all, and audited."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from mitigation.models import Acl, Alias, Audit, Cuid, EnforcementPoint
from mitigation.protocol.edits import Taken
from mitigation.protocol.trees import TreeFault
from mitigation.services import datastore, upkeep

CUID = "cuid-of-alice"


def client(*aliases: dict[str, Any], cuid: str = CUID) -> dict[str, Any]:
    return {"dots-client": [{"cuid": cuid, "aliases": {"alias": list(aliases)}}]}


def alias(name: str, *prefixes: str) -> dict[str, Any]:
    return {"name": name, "target-prefix": list(prefixes or ["198.51.100.7/32"])}


def test_every_change_is_audited(cast: Any, now: datetime) -> None:
    for tree in (client(alias("web")), client(alias("web", "198.51.100.8/32")), client(), {}):
        datastore.edit(cast.alice.pk, lambda _, tree=tree: tree, now=now)  # type: ignore[misc]

    actions = Audit.objects.filter(door="data").order_by("id").values_list("action", flat=True)
    assert list(actions) == [
        *("dots-client-register", "alias-create", "alias-replace", "alias-delete", "dots-client-remove"),
    ]
    assert Cuid.objects.get(cuid=CUID).registered_at is None


def test_one_bad_entry_leaves_nothing_of_the_edit(cast: Any, now: datetime) -> None:
    with pytest.raises(TreeFault) as fault:
        datastore.edit(cast.alice.pk, lambda _: client(alias("good"), alias("bad", "203.0.113.7/32")), now=now)

    assert fault.value.path[-1] == "target-prefix[.='203.0.113.7/32']"
    assert not Alias.objects.exists()
    assert not Cuid.objects.exists()
    assert not Audit.objects.filter(door="data").exists()


def test_a_cuid_of_another_client_is_taken(cast: Any, now: datetime) -> None:
    datastore.edit(cast.alice.pk, lambda _: client(), now=now)

    with pytest.raises(Taken):
        datastore.edit(cast.mallory.pk, lambda _: client(), now=now)


def test_what_an_edit_left_alone_keeps_its_lifetime(cast: Any, now: datetime) -> None:
    datastore.edit(cast.alice.pk, lambda _: client(alias("a"), alias("b")), now=now)
    later = now + timedelta(days=3)

    def replace_a(tree: dict[str, Any]) -> dict[str, Any]:
        (mine,) = tree["dots-client"]
        kept = next(one for one in mine["aliases"]["alias"] if one["name"] == "b")
        return {"dots-client": [{**mine, "aliases": {"alias": [alias("a"), kept]}}]}

    datastore.edit(cast.alice.pk, replace_a, now=later)

    ends = dict(Alias.objects.values_list("name", "expires_at"))
    assert ends["a"] - ends["b"] == timedelta(days=3)
    assert Alias.objects.get(name="a").changed_at == now, "the same content is a refresh, no change"


def test_upkeep_lets_expired_entries_go(cast: Any, now: datetime) -> None:
    datastore.edit(cast.alice.pk, lambda _: client(alias("web")), now=now)
    times = {"created_at": now, "refreshed_at": now, "expires_at": now + timedelta(days=7)}
    Acl.objects.create(client=cast.alice, cuid=CUID, name="x", activation_type=2, **times)
    EnforcementPoint.objects.get_or_create(name="local", defaults={"driver": "dryrun"})
    wanted = EnforcementPoint.objects.get(name="local").wanted

    upkeep.tidy(now=now + timedelta(days=6))
    assert (Alias.objects.count(), Acl.objects.count()) == (1, 1)
    upkeep.tidy(now=now + timedelta(days=8))

    assert (Alias.objects.count(), Acl.objects.count()) == (0, 0)
    assert EnforcementPoint.objects.get(name="local").wanted > wanted
    assert set(Audit.objects.filter(door="server").values_list("action", flat=True)) >= {"alias-expire", "acl-expire"}
