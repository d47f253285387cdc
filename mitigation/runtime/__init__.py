"""What a process is made of: up, sockets, writer, clock, change cursor."""
