"""Our client library towards the server: what it sends and what it makes of the answers (RFC 9132, section 4.4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_network

import pytest
import scenes

from mitigation.client.identity import Files as ClientFiles
from mitigation.client.library import Answer, Declined, DotsClient, open_client
from mitigation.protocol.scope import MitigationRequest, Scope
from tests.harness.product import Cast, Product

Open = Callable[[], AbstractAsyncContextManager[DotsClient]]


@pytest.fixture
def library(product: Product, cast: Cast) -> Open:
    @asynccontextmanager
    async def do() -> AsyncIterator[DotsClient]:
        credentials = ClientFiles(cast.alice.ca, cast.alice.cert, cast.alice.key).credentials()
        async with open_client(
            "127.0.0.1",
            product.signal_port,
            credentials=credentials,
            cuid=cast.alice.name,
            server_name="localhost",
        ) as client:
            yield client

    return do


def armed(client: DotsClient, cast: Cast, mid: int) -> MitigationRequest:
    target = Scope(target_prefix=(ip_network(scenes.only(cast, mid)),))
    return MitigationRequest(cuid=client.cuid, mid=mid, scope=target, lifetime=600, trigger_mitigation=False)


async def newest(answers: AsyncIterator[Answer]) -> Answer:
    return await asyncio.wait_for(anext(answers), 15)


@pytest.mark.rows("SIG-OBS-002", "SIG-OBS-009")
async def test_an_observation_ends_with_the_last_status(library: Open, cast: Cast) -> None:
    async with library() as client:
        await client.mitigate(armed(client, cast, 1))
        answers = client.observe(1)
        assert (await newest(answers)).entries[0]["status"] == 8

        await client.withdraw(1)

        assert (await newest(answers)).entries[0]["status"] == 6
        with pytest.raises(StopAsyncIteration):
            await newest(answers)


@pytest.mark.rows("SIG-OBS-002")
async def test_an_observation_of_nothing_is_declined(library: Open) -> None:
    async with library() as client:
        with pytest.raises(Declined, match=r"4\.04"):
            await newest(client.observe(1))


@pytest.mark.rows("SIG-GET-001", "SIG-GET-011", "SIG-BLK-004", "SIG-BLK-010")
async def test_a_long_list_is_fetched_block_by_block_also_when_it_was_notified(library: Open, cast: Cast) -> None:
    async with library() as client:
        for mid in range(1, 51):
            await client.mitigate(armed(client, cast, mid))
        assert len((await client.status()).entries) == 50
        answers = client.observe()
        assert len((await newest(answers)).entries) == 50

        await client.mitigate(armed(client, cast, 51))

        assert len((await newest(answers)).entries) == 51
        await answers.aclose()  # type: ignore[attr-defined]
