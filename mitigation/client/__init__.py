"""The DOTS client: a library and a command, without Django."""
