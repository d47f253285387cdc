"""The data channel's application: the same Django, with its own URL conf and no sessions or pages."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dotsweb.settings")

from django.conf import settings
from django.core.asgi import get_asgi_application

settings.ROOT_URLCONF = "mitigation.data_channel.urls"
settings.MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
settings.ALLOWED_HOSTS = ["*"]  # clients reach it by whatever name their certificate check accepted

application = get_asgi_application()
