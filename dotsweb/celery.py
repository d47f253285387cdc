"""The Celery application: `celery -A dotsweb worker -Q <queue>`."""

import os

from celery import Celery
from celery.schedules import crontab
from celery.signals import import_modules

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dotsweb.settings")

app = Celery("dotsweb")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["mitigation"])
app.conf.beat_schedule = {
    "tidy": {"task": "mitigation.tasks.lifecycle.tidy", "schedule": crontab(minute="*/10")},
    "publish-revocations": {"task": "mitigation.tasks.pki.publish_revocations", "schedule": crontab(minute=17, hour=3)},
}


@import_modules.connect
def _install_own_look(**_: object) -> None:
    from mitigation.runtime import workers

    workers.install(app)
