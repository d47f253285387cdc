"""The switches over all enforcement: say what will happen, ask, then throw or lift."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from mitigation.dashboard import formats
from mitigation.dashboard.roles import only
from mitigation.exceptions import NotFound
from mitigation.models import Hold, Mitigation, Rule
from mitigation.pki.home import Home
from mitigation.services import holds
from mitigation.services.people import Role

LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Switch:
    """`hold` while it is thrown. Verbs name the button; the ellipsis says that it asks first."""

    kind: str
    title: str
    means: str
    verb: str
    lift_verb: str
    hold: Hold | None
    since: int | None = None
    since_text: str = ""

    @property
    def key(self) -> str:
        return f"switch-{self.kind}"

    @property
    def url(self) -> str:
        return reverse("switch", args=[self.kind])

    @property
    def is_thrown(self) -> bool:
        return self.hold is not None

    @property
    def version(self) -> str:
        """Another one when somebody else was quicker."""
        return f"{self.hold.pk}-{self.hold.since.isoformat()}" if self.hold else "off"


_WORDS = {
    Hold.Kind.PANIC: (
        "Switch everything off",
        "Every rule of this server leaves every point at once, and none comes back until this is lifted.",
        "Switch off…",
        "Enforce again…",
    ),
    Hold.Kind.FREEZE: (
        "Change freeze",
        "What stands goes on and may be stopped; what starts from now on is accepted and held.",
        "Freeze…",
        "Lift the freeze…",
    ),
    Hold.Kind.BREAKER: (
        "Breaker",
        "Opens by itself when more rules, or rules for more addresses, start within a minute than are allowed; holds"
        " what is too much.",
        "",
        "Let it through…",
    ),
}


def switches(now: datetime) -> list[Switch]:
    thrown = {hold.kind: hold for hold in Hold.objects.all()}
    found = []
    for kind, words in _WORDS.items():
        hold = thrown.get(kind)
        since = (formats.milliseconds(hold.since), formats.moment(hold.since, now)) if hold else (None, "")
        found.append(Switch(kind.value, *words, hold, *since))
    return found


@only(Role.OPERATOR)
@require_http_methods(["GET", "POST"])
def switch(request: HttpRequest, kind: str) -> HttpResponse:
    """The question as a page of its own, or (`?dialog`) as the content of a dialog; a POST acts."""
    now = timezone.now()
    one = next((found for found in switches(now) if found.kind == kind), None)
    if one is None or (not one.is_thrown and not one.verb):
        raise Http404("There is no such switch, or nothing to lift.")
    if request.method != "POST":
        return _ask(request, one)
    if request.POST.get("version") != one.version:
        return _ask(request, one, changed=True)
    _act(request, one, now)
    return redirect("points")


def _act(request: HttpRequest, one: Switch, now: datetime) -> None:
    actor = f"operator {request.user.get_username()}"
    if one.is_thrown:
        if one.kind == Hold.Kind.PANIC:
            Home(settings.DOTS_HOME).panic.unlink(missing_ok=True)
        try:
            holds.lift(one.kind, actor=actor, now=now, door="dashboard")
        except NotFound:
            messages.warning(request, "It was lifted in the meantime.")
        else:
            messages.success(request, "Lifted. Rules that are wanted come back within seconds.")
        return
    reason = " ".join(request.POST.get("reason", "").split())[:LONGEST_REASON] or "thrown by an operator"
    holds.throw(one.kind, actor=actor, reason=reason, now=now, door="dashboard")
    said = "Every rule is on its way out." if one.kind == Hold.Kind.PANIC else "Nothing new is enforced from now on."
    messages.success(request, f"{one.title}: {said}")


def _ask(request: HttpRequest, one: Switch, *, changed: bool = False) -> HttpResponse:
    context = {
        "one": one,
        "changed": changed,
        "effects": _effects(one),
        "reason": request.POST.get("reason", ""),
        "current": "points",
        "danger": one.kind == Hold.Kind.PANIC and not one.is_thrown,
    }
    template = "partials/switch_form.html" if "dialog" in request.GET else "switch.html"
    return render(request, template, context, status=409 if changed else 200)


def _effects(one: Switch) -> list[str]:
    standing = Rule.objects.filter(state=Rule.State.INSTALLED).count()
    active = Mitigation.objects.enforced().count()
    if one.kind == Hold.Kind.PANIC and not one.is_thrown:
        return [
            f"At once: {formats.plural(standing, 'rule')} of {formats.plural(active, 'mitigation')} leave.",
            "Attacks that they hold back arrive in full. Clients are told status 4.",
            "Requests are still taken; they are enforced when this is lifted.",
        ]
    if one.is_thrown:
        return [
            f"{formats.plural(active, 'mitigation')} are enforced as their requests say, within seconds.",
            f"Thrown by {one.hold.actor}: {one.hold.reason}" if one.hold else "",
        ]
    return [
        f"{formats.plural(active, 'mitigation')} go on as they are; stopping stays possible.",
        "What starts from now on is accepted, held, and told status 4.",
    ]
