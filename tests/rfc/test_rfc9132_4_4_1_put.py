"""Requesting mitigation (RFC 9132, section 4.4.1), as a client sees it."""

from __future__ import annotations

import pytest

from tests.harness.product import Cast
from tests.harness.wire import Peer, scope


@pytest.mark.rows("SIG-PUT-001")
def test_a_new_request_is_2_01_with_its_mid_and_lifetime(alice: Peer, cast: Cast) -> None:
    made = alice.put(7, scope(f"{cast.domain.host}/32", lifetime=900))

    assert made.code == "2.01"
    assert made.scope == {5: 7, 14: 900}


@pytest.mark.rows("SIG-AUT-007")
def test_a_prefix_of_another_domain_is_refused(mallory: Peer, cast: Cast) -> None:
    refused = mallory.put(1, scope(f"{cast.domain.host}/32"))

    assert refused.code == "4.00"
    assert cast.domain.host in refused.diagnostic
    assert mallory.get().code == "4.04"
