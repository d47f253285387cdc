"""Pages over HTTP."""

from __future__ import annotations

from datetime import datetime

import dashboard_scenes as scenes
import pytest
from django.test import Client

pytestmark = pytest.mark.django_db


def test_every_page_answers_during_an_attack(browser_client: Client, now: datetime) -> None:
    made = scenes.under_attack(now)

    for path in (
        "/",
        "/mitigations/",
        f"/mitigations/{made[0].pk}/",
        "/sessions/",
        "/domains/",
        f"/domains/{made[0].domain_id}/",
    ):
        assert browser_client.get(path).status_code == 200, path
