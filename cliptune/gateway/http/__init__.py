"""What all HTTP applications share: bodies, errors, keys, middleware, the page of the calls."""
