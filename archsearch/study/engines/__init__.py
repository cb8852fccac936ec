"""How trials are spread over workers."""
