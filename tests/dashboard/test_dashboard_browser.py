"""The dashboard in Chromium: live without a reload, keyboard, both themes, a phone, no complaint of any page."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dashboard_cast as cast
import dashboard_scenes as scenes
import pytest
from axe_core_python.sync_playwright import Axe
from dashboard_browser import CHROMIUM, DESK, NAME, PASSWORD, PHONE, Looked, Served, chromium, log_in
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import expect

from mitigation.dashboard import formats
from mitigation.models import Mitigation, RefusedAcl, Transition
from mitigation.protocol.status import Status
from mitigation.services import mitigations

pytestmark = [
    pytest.mark.flow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium"),
]


@pytest.fixture
def attack(served: Served) -> list[Mitigation]:
    return scenes.under_attack(timezone.now())


@pytest.fixture
def looked(served: Served, operator: User) -> Iterator[Looked]:
    """A desk, logged in; whatever the test does, the pages may not complain nor ask anybody else."""
    with chromium() as found:
        log_in(found, served.url, operator)
        yield found
        assert found.errors == []
        assert found.hosts <= {"127.0.0.1"}


def open_live(looked: Looked, served: Served, path: str = "/") -> None:
    looked.page.goto(served.url + path)
    expect(looked.page.locator("[data-live-state]")).to_have_text("Live")


def ask(of: Mitigation, prefix: str, mid: int) -> Mitigation:
    return cast.mitigation(of.client, prefix, now=timezone.now(), mid=mid, age=0)


# -- live -------------------------------------------------------------------------------------------------------------


def test_a_row_appears_without_a_reload(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    open_live(looked, served)
    looked.page.evaluate("window.sameDocument = true")

    made = ask(attack[0], "198.51.100.99/32", 99)
    served.changed(("mitigation", made.pk))

    expect(looked.page.locator(f"[data-live=mitigation-{made.pk}]")).to_contain_text("198.51.100.99")
    expect(looked.page.locator("[data-live=now-count]")).to_have_text("7")
    assert looked.page.evaluate("window.sameDocument")


def test_the_first_mitigation_ever_replaces_the_check_list(looked: Looked, served: Served) -> None:
    now = timezone.now()
    scenes.first_day(now)
    open_live(looked, served)
    looked.page.evaluate("window.sameDocument = true")
    expect(looked.page.locator("h1")).to_have_text("The first five minutes")

    made = cast.mitigation(cast.Client.objects.get(), now=now, age=0)
    served.changed(("mitigation", made.pk))

    expect(looked.page.locator("h1")).to_contain_text("Under attack since")
    expect(looked.page.locator(f"[data-live=mitigation-{made.pk}]")).to_be_visible()
    assert looked.page.evaluate("window.sameDocument")


def test_numbers_change_in_place(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    open_live(looked, served)
    row = looked.page.locator(f"[data-live=mitigation-{attack[0].pk}]")
    before = row.locator(".p-now").inner_text()
    row.evaluate("row => { row.sameRow = true }")

    now = timezone.now()
    cast.Sample.objects.create(mitigation=attack[0], at=now, seconds=1, dropped_octets=10**10, dropped_packets=10**7)
    Mitigation.objects.filter(pk=attack[0].pk).update(counted_at=now)
    served.changed(("mitigation", attack[0].pk))

    expect(row.locator(".p-now")).not_to_have_text(before)
    assert row.evaluate("row => row.sameRow")


def test_a_countdown_runs_from_the_servers_clock(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    looked.page.clock.install(time=datetime(2031, 5, 5, tzinfo=UTC))  # this device is wrong by years
    looked.page.goto(served.url + f"/mitigations/{attack[0].pk}/")
    looked.page.clock.run_for(1500)

    shown = looked.page.locator(".clockbox .big b")
    left = (attack[0].expires_at - timezone.now()).total_seconds()
    expect(shown).to_have_text(re.compile(r"5[01]:\d\d"))
    minutes, seconds = map(int, shown.inner_text().split(":"))
    assert abs(60 * minutes + seconds - left) < 10


def test_rows_keep_their_place_under_a_pointer(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    open_live(looked, served)
    body = looked.page.locator("tbody[data-list=mitigations]")
    order = body.locator("tr").evaluate_all("rows => rows.map(row => row.dataset.live)")
    body.locator("tr").nth(3).hover()

    made = [ask(attack[0], f"198.51.100.{200 + i}/32", 200 + i) for i in range(3)]
    served.changed(*(("mitigation", one.pk) for one in made))

    news = looked.page.locator("[data-news=mitigations]")
    expect(news).to_have_text("3 new rows above. Your place is kept.")
    assert body.locator("tr").evaluate_all("rows => rows.map(row => row.dataset.live)") == order
    news.click()
    expect(body.locator("tr")).to_have_count(len(order) + 3)
    expect(news).to_be_hidden()


def test_what_ended_leaves_only_when_nobody_points_at_it(
    attack: list[Mitigation], looked: Looked, served: Served
) -> None:
    open_live(looked, served, "/mitigations/")
    row = looked.page.locator(f"[data-live=mitigation-{attack[0].pk}]")
    row.hover()

    cast.end(attack[0], at=timezone.now())
    served.changed(("mitigation", attack[0].pk))

    expect(row).to_have_class("off")
    looked.page.mouse.move(5, 5)
    expect(row).to_have_count(0)


def test_focus_stays_where_it_is(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    open_live(looked, served)
    link = looked.page.locator(f"[data-live=mitigation-{attack[1].pk}] a.target")
    link.focus()

    made = ask(attack[0], "198.51.100.99/32", 99)
    served.changed(("mitigation", made.pk))

    expect(looked.page.locator("[data-news=mitigations]")).to_be_visible()
    expect(link).to_be_focused()


def test_a_state_is_said_to_who_listens(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    open_live(looked, served)

    changes = {"installed_at": None, "hitting_at": None, "problem": "nft is gone"}
    Mitigation.objects.filter(pk=attack[0].pk).update(**changes)
    served.changed(("mitigation", attack[0].pk))

    expect(looked.page.locator("[data-shout]")).to_have_text("198.51.100.7: Not enforced")


def test_silence_is_said(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    silent = threading.Event()

    def listen(socket: Any) -> None:
        server = socket.connect_to_server()
        server.on_message(lambda message: None if silent.is_set() else socket.send(message))

    looked.page.route_web_socket("**/ws/live", listen)
    looked.page.clock.install()
    open_live(looked, served)

    silent.set()
    looked.page.clock.fast_forward(14_000)

    state = looked.page.locator("[data-live-state]")
    expect(state).to_have_text(re.compile(r"No live updates for 00:1\d"))
    expect(state).to_have_class("live stale")
    silent.clear()
    expect(state).to_have_text("Live")


def test_a_lost_connection_comes_back_with_the_present_state(
    attack: list[Mitigation], looked: Looked, served: Served
) -> None:
    sockets: list[Any] = []
    looked.page.route_web_socket("**/ws/live", lambda socket: sockets.append((socket, socket.connect_to_server())))
    open_live(looked, served)

    made = ask(attack[0], "198.51.100.99/32", 99)  # nobody is told
    for end in sockets[0]:
        end.close(code=1012)

    expect(looked.page.locator(f"[data-live=mitigation-{made.pk}]")).to_be_visible()
    expect(looked.page.locator("[data-live-state]")).to_have_text("Live")
    assert len(sockets) >= 2


def test_a_logout_elsewhere_is_said(
    attack: list[Mitigation], looked: Looked, served: Served, monkeypatch: pytest.MonkeyPatch, operator: User
) -> None:
    from mitigation.dashboard import consumers

    monkeypatch.setattr(consumers, "RECHECK", 0.0)
    open_live(looked, served)

    operator.set_password("another long password")
    operator.save()

    expect(looked.page.locator(".banner.bad")).to_contain_text("You are logged out.")
    expect(looked.page.locator("[data-live-state]")).to_have_text("Logged out")


# -- stop -------------------------------------------------------------------------------------------------------------


def test_the_stop_dialog_asks_first(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    open_live(looked, served)
    button = looked.page.get_by_role("link", name="Stop 198.51.100.7…")

    button.click()

    dialog = looked.page.get_by_role("dialog", name="Stop protecting 198.51.100.7?")
    expect(dialog).to_contain_text("At once: 5 rules leave 1 point.")
    keep = dialog.get_by_role("link", name="Keep protecting")
    expect(keep).to_be_focused()
    looked.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    attack[0].refresh_from_db()
    assert attack[0].status == Status.MITIGATED


def test_keep_protecting_keeps(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    open_live(looked, served)
    looked.page.get_by_role("link", name="Stop 198.51.100.7…").click()

    looked.page.get_by_role("link", name="Keep protecting").click()

    expect(looked.page.locator("dialog[open]")).to_have_count(0)
    assert looked.page.url == served.url + "/"


def test_a_stop_in_the_dialog_stops(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    open_live(looked, served, f"/mitigations/{attack[0].pk}/")
    looked.page.get_by_role("link", name="Stop…").first.click()
    looked.page.get_by_label("Reason, for the timeline").fill("false alarm")

    looked.page.get_by_role("button", name="Stop and remove 5 rules").click()

    expect(looked.page.locator(".toast")).to_contain_text("Stopped protecting 198.51.100.7.")
    expect(looked.page.locator("[data-live=timeline]")).to_contain_text(f"operator {NAME} · false alarm")
    attack[0].refresh_from_db()
    assert attack[0].status == Status.WITHDRAWN


def test_an_open_dialog_tells_that_the_object_changed(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    open_live(looked, served)
    looked.page.get_by_role("link", name="Stop 198.51.100.7…").click()
    press = looked.page.get_by_role("button", name="Stop and remove 5 rules")
    expect(press).to_be_enabled()

    mitigations.stop(attack[0].pk, actor="operator bob", reason="bob was faster", now=timezone.now())
    served.changed(("mitigation", attack[0].pk))

    expect(looked.page.locator("dialog [data-changed]")).to_contain_text("It changed while you read.")
    expect(press).to_be_disabled()
    looked.page.get_by_role("link", name="Look again").click()
    expect(looked.page.get_by_role("dialog")).to_contain_text("It has ended already")
    assert Transition.objects.filter(mitigation=attack[0], happening="server-withdrew").count() == 1


# -- filters ----------------------------------------------------------------------------------------------------------


def test_a_list_of_filters_is_live_and_can_be_held(looked: Looked, served: Served) -> None:
    ntp = scenes.filtered(timezone.now())[1]
    open_live(looked, served, f"/filters/{ntp.pk}/")
    entry = looked.page.locator("[data-key=ace-1]")
    before = entry.locator("[data-label=Packets]").inner_text()
    expect(looked.page.locator("[data-chart=both] canvas")).to_be_visible()

    cast.EnforcedAce.objects.filter(acl=ntp, ace="entry-1").update(packets=10**12)
    served.changed(("point", 1))
    expect(entry.locator("[data-label=Packets]")).not_to_have_text(before)

    looked.page.get_by_role("link", name="Hold…").click()
    dialog = looked.page.get_by_role("dialog", name="Hold ntp?")
    expect(dialog.get_by_role("link", name="Leave it")).to_be_focused()
    dialog.get_by_label("Reason, for the history").fill("shuts out the monitoring")
    dialog.get_by_role("button", name="Hold it").click()

    expect(looked.page.locator(".toast")).to_contain_text("Held ntp.")
    expect(looked.page.locator("[data-live=title] .pill")).to_have_text("Held")
    expect(looked.page.locator("[data-live=timeline]")).to_contain_text("Held: shuts out the monitoring")


def test_a_refused_list_appears_among_what_needs_a_person(looked: Looked, served: Served) -> None:
    scenes.filtered(timezone.now())
    refused = RefusedAcl.objects.get()
    values = {"acl": refused.acl, "point": refused.point, "reason": refused.reason, "since": refused.since}
    refused.delete()
    open_live(looked, served)
    expect(looked.page.locator("[data-live=needs]")).not_to_contain_text("Filter refused")

    RefusedAcl.objects.create(**values)
    served.changed(("point", 1))

    expect(looked.page.locator("[data-live=needs]")).to_contain_text("Filter refused")


# -- policy -----------------------------------------------------------------------------------------------------------


def test_an_admin_changes_a_policy_and_mends_what_was_wrong(attack: list[Mitigation], served: Served) -> None:
    person = get_user_model().objects.create_superuser("admin", password=PASSWORD)
    with chromium() as looked:
        log_in(looked, served.url, person)
        open_live(looked, served, f"/domains/{attack[0].domain_id}/")
        looked.page.get_by_role("link", name="Change playbooks…").click()
        looked.page.get_by_role("textbox", name="Ladder").fill("shield ratelimit")
        looked.page.get_by_label("udp_rate").fill("fast")
        looked.page.get_by_role("button", name="Save the policy").click()

        expect(looked.page.locator(".note.bad")).to_contain_text("Nothing was saved.")
        looked.page.locator(".note.bad").get_by_role("link", name="udp_rate").click()
        expect(looked.page.locator("#udp_rate-err")).to_contain_text("udp_rate is a whole number")
        expect(looked.page.get_by_role("textbox", name="Ladder")).to_have_value("shield ratelimit")
        found = Axe().run(looked.page)["violations"]
        assert [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found] == []
        looked.page.get_by_label("udp_rate").fill("500")
        looked.page.get_by_role("button", name="Save the policy").click()

        expect(looked.page.locator(".toast")).to_contain_text("Changed: ladder, udp_rate.")
        assert [one for one in looked.errors if "400" not in one] == []
    attack[0].domain.refresh_from_db()
    assert attack[0].domain.ladder == ["shield", "ratelimit"]


# -- login, keyboard, chart -------------------------------------------------------------------------------------------


def test_one_logs_in_and_out(operator: User, served: Served) -> None:
    with chromium() as looked:
        looked.page.goto(served.url + "/sessions/")
        expect(looked.page.get_by_label("Name")).to_be_focused()
        looked.page.get_by_label("Name").fill(NAME)
        looked.page.get_by_label("Password").fill("wrong")
        looked.page.get_by_role("button", name="Log in").click()
        expect(looked.page.get_by_role("alert")).to_contain_text("Name or password is wrong.")
        looked.page.get_by_label("Password").fill(PASSWORD)
        looked.page.keyboard.press("Enter")
        expect(looked.page.locator("h1")).to_have_text("Sessions")
        looked.page.get_by_role("button", name="Log out").first.click()
        expect(looked.page.locator("h1")).to_have_text("Log in")
        assert looked.errors == []


def test_who_guesses_is_told_how_long_to_wait(operator: User, served: Served) -> None:
    with chromium() as looked:
        looked.page.goto(served.url + "/login/")
        for _ in range(6):
            looked.page.get_by_label("Name").fill(NAME)
            looked.page.get_by_label("Password").fill("wrong")
            with looked.page.expect_navigation():
                looked.page.get_by_role("button", name="Log in").click()
        said = looked.page.get_by_role("alert")
        expect(said).to_contain_text(re.compile(r"Too many wrong tries\. Wait 00:(2\d|30)\."))
        expect(looked.page.get_by_label("Name")).to_have_value(NAME)
        assert [one for one in looked.errors if "429" not in one] == []


def test_the_slash_jumps_to_the_search(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    open_live(looked, served)

    looked.page.keyboard.press("/")
    looked.page.keyboard.type("20418")
    looked.page.keyboard.press("Enter")

    expect(looked.page.locator("h1")).to_have_text("198.51.100.64/26")


def test_the_chart_is_drawn_and_follows_the_unit(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    open_live(looked, served)
    expect(looked.page.locator("[data-chart=both] canvas")).to_be_visible()
    allowed = looked.page.locator("[data-v=a]")
    expect(allowed).to_contain_text("bit/s")

    looked.page.get_by_role("button", name="pps").click()

    expect(allowed).to_contain_text("pps")
    served.changed(("mitigation", attack[0].pk))
    expect(looked.page.get_by_role("button", name="pps")).to_have_attribute("aria-pressed", "true")


def test_redirected_and_limited_traffic_have_their_place(looked: Looked, served: Served) -> None:
    made = scenes.redirected(timezone.now())
    open_live(looked, served, f"/mitigations/{made.pk}/")
    box = looked.page.locator("[data-chart=both]")
    expect(box.locator("canvas")).to_be_visible()
    legend = looked.page.locator(".chart .legend")
    expect(legend).to_contain_text("of it by limits")
    latest = legend.locator("[data-v=r]").inner_text()
    assert latest.endswith("bit/s")

    # The pointer on the middle of the chart: the legend says what was there.
    box.hover()

    expect(legend.locator("[data-v=t]")).not_to_have_text("now")
    expect(legend.locator("[data-v=r]")).not_to_have_text(latest)
    expect(legend.locator("[data-v=l]")).to_contain_text("bit/s")
    looked.page.get_by_text("Show as table").click()
    expect(looked.page.locator("details.data th")).to_have_count(9)


def test_an_open_table_stays_open(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    open_live(looked, served)
    looked.page.get_by_text("Show as table").click()
    expect(looked.page.locator("details.data table")).to_be_visible()

    cast.go_on(now=timezone.now() + timedelta(seconds=1))
    with looked.page.expect_event("console", lambda message: message.text == "painted", timeout=5000):
        looked.page.evaluate("document.addEventListener('painted', () => console.log('painted'))")
        served.changed(("mitigation", attack[0].pk))

    expect(looked.page.locator("details.data table")).to_be_visible()


def test_scripts_and_server_write_the_same_words(looked: Looked, served: Served, attack: list[Mitigation]) -> None:
    open_live(looked, served)
    values = [0, 0.4, 1, 9.99, 412, 999.6, 1000, 7.17e6, 99.96e6, 306e6, 999.96e6, 44.1e9, 1.72e12, None]
    seconds = [-3, 0, 4, 29, 30, 41, 252, 3599, 3600, 4331, 86_399, 86_400, 273_600]

    said = looked.page.evaluate(
        "([values, seconds]) => [values.map(v => dots.rate(v, 'bits')), seconds.map(dots.left), seconds.map(dots.ago)]",
        [values, seconds],
    )

    assert said == [
        [str(formats.bit_rate(value)) for value in values],
        [formats.left(value) for value in seconds],
        [formats.ago(value) for value in seconds],
    ]


def test_the_theme_can_be_chosen_and_is_remembered(attack: list[Mitigation], looked: Looked, served: Served) -> None:
    open_live(looked, served)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = looked.page.evaluate(ground)

    looked.page.get_by_role("button", name="Dark").first.click()
    dark = looked.page.evaluate(ground)
    looked.page.reload()

    assert dark != light
    assert looked.page.evaluate(ground) == dark
    expect(looked.page.get_by_role("button", name="Dark").first).to_have_attribute("aria-pressed", "true")


def test_pages_read_without_scripts(attack: list[Mitigation], served: Served, operator: User) -> None:
    with chromium(java_script_enabled=False) as looked:
        log_in(looked, served.url, operator)
        looked.page.goto(served.url)
        expect(looked.page.locator("h1")).to_contain_text("Under attack since")
        looked.page.get_by_text("Show as table").click()
        expect(looked.page.locator("details.data td.tab").first).to_be_visible()
        looked.page.get_by_role("link", name="Stop 198.51.100.7…").click()
        looked.page.get_by_role("button", name="Stop and remove 5 rules").click()
        expect(looked.page.locator(".toast")).to_contain_text("Stopped protecting 198.51.100.7.")


# -- every page, every theme, both widths -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("width", "viewport"), [("desk", DESK), ("phone", PHONE)])
@pytest.mark.parametrize(
    "scene",
    [
        scenes.under_attack,
        scenes.waiting,
        scenes.filtered,
        scenes.redirected,
        scenes.quiet,
        scenes.dry_run,
        scenes.first_day,
    ],
)
def test_pages_are_accessible_and_fit(
    scene: Any, width: str, viewport: dict[str, int], served: Served, operator: User
) -> None:
    scene(timezone.now())
    axe = Axe()
    with chromium(viewport=viewport, reduced_motion="reduce") as looked:
        looked.page.goto(served.url + "/login/")
        _check(looked, axe, "/login/")
        log_in(looked, served.url, operator)
        for path in _paths():
            open_live(looked, served, path)
            _check(looked, axe, path)
        stop = looked.page.locator("a[data-dialog]:visible")
        if stop.count():
            stop.first.click()
            expect(looked.page.locator("dialog[open]")).to_be_visible()
            _check(looked, axe, "dialog", "dialog[open]")  # what lies behind it is inert, and dimmed
        assert looked.errors == []
        assert looked.hosts <= {"127.0.0.1"}


def _paths() -> list[str]:
    domain = cast.Domain.objects.first()
    found = Mitigation.objects.order_by("pk").values_list("pk", flat=True)
    some = [f"/mitigations/{pk}/" for pk in (list(found)[:1] + list(found)[-1:])]
    waiting = Mitigation.objects.filter(approve_by__isnull=False).order_by("pk").values_list("pk", flat=True)
    some += [f"/mitigations/{pk}/{page}" for pk in waiting[:1] for page in ("", "approve/", "reject/")]
    return [
        "/",
        "/mitigations/",
        "/mitigations/?show=ended",
        "/sessions/",
        "/domains/",
        "/points/",
        "/points/switches/panic/",
        "/filters/",
        *(f"/filters/{pk}/" for pk in cast.Acl.objects.order_by("pk").values_list("pk", flat=True)[1:4]),
        *(f"/filters/{pk}/hold/" for pk in cast.Acl.objects.order_by("pk").values_list("pk", flat=True)[:1]),
        f"/domains/{domain.pk}/",
        *some,
    ]


def _check(looked: Looked, axe: Axe, path: str, part: str | None = None) -> None:
    for theme in ("light", "dark"):
        looked.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        found = axe.run(looked.page, context=part)["violations"]
        assert [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found] == [], (path, theme)
    widths = looked.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1], path
