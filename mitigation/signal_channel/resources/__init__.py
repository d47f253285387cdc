"""One module a resource under /.well-known/dots."""
