"""The data channel's application: the same Django, with its own URL conf and no sessions or pages."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dotsweb.settings")

from django.conf import settings
from django.core.asgi import get_asgi_application

from mitigation.data_channel.bodies import MAXIMUM_OCTETS, Limited
from mitigation.data_channel.proxy import BehindProxy

settings.ROOT_URLCONF = "mitigation.data_channel.urls"
settings.MIDDLEWARE = []
settings.ALLOWED_HOSTS = ["*"]  # clients reach it by whatever name their certificate check accepted
settings.DATA_UPLOAD_MAX_MEMORY_SIZE = MAXIMUM_OCTETS

application = Limited(get_asgi_application())
behind_proxy = BehindProxy(application)
