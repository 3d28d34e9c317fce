"""HTTP, whatever the application: bodies, forms, errors, middleware, the page of the calls."""
