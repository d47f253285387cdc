"""What a login may do on the dashboard; who may not is told so, and nothing is done."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse

from mitigation.services.people import Role, role_of

View = Callable[..., HttpResponse]

_DENIED = {
    Role.OPERATOR: "Your login may look, and not act. An admin can change that.",
    Role.ADMIN: "Policies are changed by admins. Your login is none; an admin can change that.",
}
_ORDER = list(Role)


def may(request: HttpRequest, role: Role) -> bool:
    return request.user.is_authenticated and _ORDER.index(role_of(request.user)) >= _ORDER.index(role)


def only(role: Role) -> Callable[[View], View]:
    """For a view that acts, or asks before it does. Who has not logged in is sent to do so."""

    def wrap(view: View) -> View:
        @login_required
        @wraps(view)
        def guarded(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
            if not may(request, role):
                raise PermissionDenied(_DENIED[role])
            return view(request, *args, **kwargs)

        return guarded

    return wrap
