"""Input that nobody meant: what it may do is be refused."""
