"""Celery tasks: load, call one verb, return."""
