"""The operators' door: pages and live updates."""
