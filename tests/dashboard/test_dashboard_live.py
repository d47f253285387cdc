"""The websocket: who gets news, which, and how often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

import dashboard_cast as cast
import dashboard_scenes as scenes
import pytest
from asgiref.sync import sync_to_async
from dashboard_browser import NAME
from dashboard_socket import Socket
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from dotsweb.asgi import application
from mitigation.dashboard import consumers, live
from mitigation.dashboard.live import hub
from mitigation.models import Mitigation
from mitigation.services import mitigations

pytestmark = pytest.mark.django_db(transaction=True)

in_thread = sync_to_async


@pytest.fixture(autouse=True)
def settled(read_beside_writers: None) -> None:
    """Threads share the database in memory."""


@pytest.fixture
def cookie(transactional_db: None, operator: User) -> str:
    client = Client()
    client.force_login(operator)
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def dial(cookie: str = "", origin: str = "http://localhost") -> Socket:
    headers = [(b"origin", origin.encode()), (b"host", b"localhost")]
    if cookie:
        headers.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={cookie}".encode()))
    return Socket(application, "/ws/live", headers)


@pytest.fixture
async def page(cookie: str) -> AsyncIterator[Socket]:
    socket = dial(cookie)
    assert await socket.connect()
    yield socket
    await socket.disconnect()


async def news(socket: Socket, wanted: Callable[[dict[str, Any]], bool], within: float = 5.0) -> Any:
    """The first message of that kind; the others are passed over."""
    until = time.monotonic() + within
    while (left := until - time.monotonic()) > 0:
        message = await socket.receive_json_from(timeout=left)
        if wanted(message):
            return message
    raise AssertionError("no such news came")


def has(key: str) -> Callable[[dict[str, Any]], bool]:
    return lambda message: key in message.get("parts", {})


async def look(socket: Socket, address: str) -> dict[str, Any]:
    await socket.send_json_to({"watch": address})
    return await news(socket, has("rail"))


# -- mallory ----------------------------------------------------------------------------------------------------------


async def test_mallory_without_a_login_gets_a_code_and_nothing_else() -> None:
    socket = dial()
    await socket.connect()

    assert await socket.receive_output(timeout=2) == {"type": "websocket.close", "code": 4401}
    assert hub.is_idle


async def test_mallory_with_a_made_up_session_gets_nothing() -> None:
    socket = dial("0" * 32)
    await socket.connect()

    assert (await socket.receive_output(timeout=2))["code"] == consumers.UNAUTHENTICATED


async def test_mallory_on_another_site_is_refused(cookie: str) -> None:
    socket = dial(cookie, origin="https://mallory.example")

    connected = await socket.connect()

    assert not connected


async def test_a_logout_ends_the_feed(
    page: Socket, cookie: str, monkeypatch: pytest.MonkeyPatch, now: datetime
) -> None:
    await look(page, "/mitigations/")
    monkeypatch.setattr(consumers, "RECHECK", 0.0)

    await in_thread(_log_out)(cookie)
    await hub.changed([("mitigation", 1)])

    async def closed() -> dict[str, Any]:
        while (output := await page.receive_output(timeout=3))["type"] != "websocket.close":
            pass
        return output

    assert (await closed())["code"] == consumers.UNAUTHENTICATED


async def test_a_new_password_ends_the_feed(page: Socket, operator: User, monkeypatch: pytest.MonkeyPatch) -> None:
    await look(page, "/mitigations/")
    monkeypatch.setattr(consumers, "RECHECK", 0.0)

    operator.set_password("another long password")
    await operator.asave()
    await hub.changed([("mitigation", 1)])

    output = await page.receive_output(timeout=3)
    while output["type"] != "websocket.close":
        output = await page.receive_output(timeout=3)
    assert output["code"] == consumers.UNAUTHENTICATED


def _log_out(key: str) -> None:
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = key
    client.logout()


# -- news -------------------------------------------------------------------------------------------------------------


async def test_a_page_gets_all_of_its_parts_first(page: Socket, now: datetime) -> None:
    made = await in_thread(scenes.under_attack)(now)

    first = await look(page, "/")

    assert {"headline", "needs", "chart-now", "rail", "tabs", "banner"} <= first["parts"].keys()
    assert first["lists"]["mitigations"][0] == f"mitigation-{made[-1].pk}"  # what is not enforced stands first
    assert "Hitting" in first["parts"][f"mitigation-{made[0].pk}"]
    assert abs(first["at"] / 1000 - time.time()) < 5


async def test_a_new_mitigation_comes_as_a_row(page: Socket, now: datetime) -> None:
    people = await in_thread(scenes.under_attack)(now)
    await look(page, "/")

    made = await in_thread(cast.mitigation)(people[0].client, "198.51.100.99/32", now=now, mid=99, age=0)
    await hub.changed([("mitigation", made.pk)])

    message = await news(page, has(f"mitigation-{made.pk}"))
    assert "198.51.100.99" in message["parts"][f"mitigation-{made.pk}"]
    assert f"mitigation-{made.pk}" in message["lists"]["mitigations"]


async def test_only_what_changed_is_sent(page: Socket, now: datetime) -> None:
    made = await in_thread(scenes.under_attack)(now)
    first = await look(page, "/mitigations/")

    await in_thread(mitigations.stop)(made[0].pk, actor="operator bob", reason="test", now=now)
    await hub.changed([("mitigation", made[0].pk)])

    key = f"mitigation-{made[0].pk}"
    message = await news(page, has(key))
    assert "Stop…" not in message["parts"][key]
    assert all(part != first["parts"].get(name) for name, part in message["parts"].items())
    assert {"text": "198.51.100.7: Ending", "urgent": False} in message["said"]


async def test_not_enforced_is_said_with_urgency(page: Socket, now: datetime) -> None:
    made = await in_thread(scenes.under_attack)(now, broken=False)
    await look(page, "/")

    await Mitigation.objects.filter(pk=made[0].pk).aupdate(installed_at=None, hitting_at=None, problem="nft is gone")
    await hub.changed([("mitigation", made[0].pk)])

    message = await news(page, lambda message: "said" in message)
    assert message["said"] == [{"text": "198.51.100.7: Not enforced", "urgent": True}]


async def test_texts_of_clocks_are_left_to_the_page(page: Socket, now: datetime) -> None:
    made = await in_thread(scenes.under_attack)(now)

    first = await look(page, "/")

    assert 'data-until="' in first["parts"][f"mitigation-{made[0].pk}"]
    assert "51:2" not in first["parts"][f"mitigation-{made[0].pk}"]


async def test_paints_are_folded_to_four_a_second(page: Socket, now: datetime) -> None:
    made = await in_thread(scenes.under_attack)(now, broken=False)
    await look(page, f"/mitigations/{made[0].pk}/")

    async def storm() -> None:
        for i in range(100):
            await Mitigation.objects.filter(pk=made[0].pk).aupdate(status_reason=f"change {i}")
            await hub.changed([("mitigation", made[0].pk)])
            await asyncio.sleep(0.01)

    started = time.monotonic()
    storming = asyncio.create_task(storm())
    paints = 0
    while True:
        message = await page.receive_json_from(timeout=5)
        paints += 1
        if "change 99" in message.get("parts", {}).get("asked", ""):
            break
    elapsed = time.monotonic() - started
    await storming

    assert paints <= 4 * elapsed + 2


async def test_a_page_that_changes_address_gets_the_other_parts(page: Socket, now: datetime) -> None:
    made = await in_thread(scenes.under_attack)(now)
    await look(page, "/")

    parts = (await look(page, f"/mitigations/{made[0].pk}/?range=5m"))["parts"]

    assert {"title", "proof", "clock", "timeline", "rules", "chart-mitigation"} <= parts.keys()
    assert "headline" not in parts
    assert 'href="?range=5m" aria-current="true"' in parts["chart-mitigation"]


async def test_the_first_mitigation_ever_changes_the_layout(page: Socket, now: datetime) -> None:
    await in_thread(scenes.first_day)(now)
    first = await look(page, "/")
    client = await cast.Client.objects.aget()

    made = await in_thread(cast.mitigation)(client, now=now, age=0)
    await hub.changed([("mitigation", made.pk)])

    assert first["layout"] == "first"
    assert (await news(page, lambda message: message.get("layout") == "running"))["parts"]["headline"]


@pytest.mark.slow
async def test_the_hub_ticks_while_somebody_listens(page: Socket) -> None:
    await look(page, "/sessions/")

    tick = await page.receive_json_from(timeout=live.TICK + 2)

    assert tick["at"] > 0
    assert not tick.get("parts")


@pytest.mark.slow
async def test_a_rendering_that_fails_is_not_called_live(
    page: Socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await look(page, "/sessions/")

    async def fails(*_: object) -> None:
        raise RuntimeError("no database")

    monkeypatch.setattr(consumers.painter, "snapshot", fails)
    await hub.changed([("session", 1)])

    assert await page.receive_nothing(timeout=live.TICK + 0.5)
    assert "a live update could not be rendered" in caplog.text


@pytest.mark.parametrize("nonsense", [{}, {"watch": 7}, {"watch": "x" * 5000}, [], "watch", {"watch": "/nowhere/"}])
async def test_nonsense_is_survived(nonsense: object, page: Socket, now: datetime) -> None:
    await page.send_json_to(nonsense)

    assert (await look(page, "/sessions/"))["parts"]["rail"]


async def test_pages_that_are_equal_share_one_rendering(
    cookie: str, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mitigation.dashboard import painting

    made = await in_thread(scenes.under_attack)(now)
    sockets = [dial(cookie) for _ in range(5)]
    for socket in sockets:
        await socket.connect()
        await look(socket, "/mitigations/")
    renderings = []
    real = painting.snapshot
    monkeypatch.setattr(painting, "snapshot", lambda *given: renderings.append(given) or real(*given))

    await in_thread(mitigations.stop)(made[0].pk, actor=f"operator {NAME}", reason="", now=now)
    await hub.changed([("mitigation", made[0].pk)])
    for socket in sockets:
        await news(socket, has(f"mitigation-{made[0].pk}"))

    assert 1 <= len(renderings) <= 2  # a tick may have come in between
    for socket in sockets:
        await socket.disconnect()
    assert hub.is_idle


async def test_a_mitigation_that_ends_leaves_now_after_a_minute(page: Socket, now: datetime) -> None:
    made = await in_thread(scenes.under_attack)(now, broken=False)
    await in_thread(cast.end)(made[0], at=now)
    key = f"mitigation-{made[0].pk}"
    first = await look(page, "/")
    assert key in first["lists"]["mitigations"]
    assert "Ended" in first["parts"][key]

    await Mitigation.objects.filter(pk=made[0].pk).aupdate(ended_at=now - timedelta(seconds=61))
    await hub.changed([("mitigation", made[0].pk)])

    message = await news(page, lambda message: "mitigations" in message.get("lists", {}))
    assert key not in message["lists"]["mitigations"]
