"""The login form, which slows down who guesses."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.utils import timezone

from mitigation.dashboard import formats
from mitigation.services import logins

LONGEST_ADDRESS = 45  # as the database keeps it; one with a zone may be longer


class LoginForm(AuthenticationForm):
    """`must_wait`: in how many seconds the next try is looked at; this one was not."""

    must_wait = 0

    def clean(self) -> dict[str, Any]:
        name, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if not name or not password:
            return super().clean()
        address = self.request.META.get("REMOTE_ADDR", "")[:LONGEST_ADDRESS]
        try:
            logins.begin(name, address, now=timezone.now())
        except logins.MustWait as refusal:
            self.must_wait = refusal.seconds
            raise ValidationError(str(refusal), code="must-wait") from None
        cleaned = super().clean()  # raises where the password is wrong
        logins.succeeded(name, address, now=timezone.now())
        return cleaned

    @property
    def wait_words(self) -> str:
        return formats.left(self.must_wait)

    @property
    def wait_until(self) -> str:
        return formats.clock(timezone.now() + timedelta(seconds=self.must_wait))


class Login(LoginView):
    template_name = "login.html"
    redirect_authenticated_user = True
    authentication_form = LoginForm

    def form_invalid(self, form: LoginForm) -> HttpResponse:
        answer = super().form_invalid(form)
        if form.must_wait:
            answer.status_code = 429
            answer["Retry-After"] = str(form.must_wait)
        return answer
