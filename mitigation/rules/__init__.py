"""Canonical rules, box algebra and playbooks: pure."""
