"""What client and server agree on: parameters, errors, tags, documents."""
