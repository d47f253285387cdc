"""Who an HTTPS request comes from: the certificate of its TLS connection, judged at each request."""

from __future__ import annotations

import hashlib
import ssl
from datetime import datetime
from typing import Any

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from mitigation.models import Client, Credential
from mitigation.services import authorities
from mitigation.services.certificates import find_usable


class ApiClient:
    """What DRF calls the user: a DOTS client with the credential it came with."""

    is_authenticated = True
    is_anonymous = False

    def __init__(self, credential: Credential) -> None:
        self.credential = credential
        self.client: Client = credential.client


class ClientCertificate(BaseAuthentication):
    """The row decides, not the handshake alone: on an open connection too a revoked certificate is refused."""

    def authenticate(self, request: Request) -> tuple[ApiClient, Credential] | None:
        chain = _chain(request)
        if not chain:
            return None
        try:
            der = ssl.PEM_cert_to_DER_cert(chain[0])
            credential = _credential_of(der, now=timezone.now())
        except ValueError:
            raise AuthenticationFailed("the certificate cannot be read") from None
        if credential is None:
            raise AuthenticationFailed("this certificate is not registered for the service, or has been revoked")
        return ApiClient(credential), credential

    def authenticate_header(self, request: Request) -> str:
        """Makes a missing certificate 401 rather than 403."""
        return 'Certificate realm="dots"'


def _credential_of(der: bytes, *, now: datetime) -> Credential | None:
    fingerprint = hashlib.sha256(der).hexdigest()
    found = find_usable(fingerprint, now=now)
    if found is None and authorities.admit(der, now=now) is not None:
        found = find_usable(fingerprint, now=now)
    return found


def _chain(request: Request) -> list[str]:
    scope: dict[str, Any] = getattr(request._request, "scope", {})
    chain: list[str] = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", [])
    return chain
