"""Celery tasks: load, call one verb, return. All of them may run twice."""

from mitigation.tasks import enforcement, lifecycle, pki

__all__ = ["enforcement", "lifecycle", "pki"]
