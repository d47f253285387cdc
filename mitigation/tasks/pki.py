"""Queue `pki`: the only long-lived process that opens the authority's key."""

from __future__ import annotations

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from mitigation.pki.authority import open_authority
from mitigation.pki.home import Home
from mitigation.services import certificates


@shared_task
def publish_revocations() -> int:
    """Sign the revocation list anew: after a revocation, and daily so that it never runs out."""
    return certificates.publish_revocations(open_authority(Home(settings.DOTS_HOME)), now=timezone.now())
