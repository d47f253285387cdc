"""What is refused leaves nothing behind."""

from __future__ import annotations

from typing import Any

from tests.harness.wire import Peer


def assert_refused(peer: Peer, body: bytes, *words: str, mid: int = 1, **options: Any) -> str:
    """This PUT gets 4.00 with a sentence that has `words`, and there is no such mitigation after it."""
    refused = peer.put(mid, body, **options)

    assert refused.code == "4.00", (refused.code, refused.payload)
    for word in words:
        assert word in refused.diagnostic
    assert refused.diagnostic
    assert peer.get(mid).code == "4.04"
    return refused.diagnostic
