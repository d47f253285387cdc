"""Figures that can be trusted: a server pinned to one core, a generator on another, several runs, medians."""
