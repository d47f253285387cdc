"""The data channel's application: the same Django, with its own URL conf and no sessions or pages."""

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dotsweb.settings")

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler

from mitigation.data_channel.bodies import MAXIMUM_OCTETS, Limited, Receive, Send
from mitigation.data_channel.proxy import BehindProxy

settings.ROOT_URLCONF = "mitigation.data_channel.urls"
settings.MIDDLEWARE = []
settings.ALLOWED_HOSTS = ["*"]  # clients reach it by whatever name their certificate check accepted
settings.DATA_UPLOAD_MAX_MEMORY_SIZE = MAXIMUM_OCTETS


class _OneThread(ASGIHandler):
    """All requests in one thread, which keeps its connection to the database.

    Django would give each a thread of its own: with eight clients they would fight for the interpreter and, on SQLite,
    for the write lock, and serve half as many as one after the other.
    """

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await self.handle(scope, receive, send)


django.setup(set_prefix=False)
application = Limited(_OneThread())
behind_proxy = BehindProxy(application)
