"""The Celery application: `celery -A dotsweb worker -Q <queue>`."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dotsweb.settings")

app = Celery("dotsweb")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["mitigation"])
