"""One module a resource: parse, call, shape."""
