"""RFC knowledge: plain Python, no Django, no I/O, no clock."""
