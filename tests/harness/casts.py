"""What a cast leaves on the product's database, taken away."""

from __future__ import annotations

from tests.harness.console import Console
from tests.harness.product import Cast

# The domains are locked first, as by everybody who changes their mitigations: the enforcer writes history meanwhile.
# It may also be writing whose rules are whose; the product itself never deletes a mitigation that has any.
_FORGET = """
from django.db import IntegrityError, transaction
from django.db.models import F
from mitigation.services import locks
for is_last in (False,) * 20 + (True,):
    try:
        with transaction.atomic():
            locks.domains_of_clients(Client.objects.filter(name__in=clients).values_list('pk', flat=True))
            Alias.objects.filter(client__name__in=clients).delete()
            acls, _ = Acl.objects.filter(client__name__in=clients).delete()
            mitigations, _ = Mitigation.objects.filter(client__name__in=clients).delete()
        break
    except IntegrityError:
        if is_last:
            raise
if acls or mitigations:
    EnforcementPoint.objects.update(wanted=F('wanted') + 1)
"""


def forget(console: Console, cast: Cast) -> None:
    """Hundreds of tests leave hundreds of rules, which all others would wait for."""
    console.run(_FORGET, clients=[files.name for files in (cast.alice, cast.bob, cast.mallory)])
