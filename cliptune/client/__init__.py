"""Ask a server: the client, runs at a train Flow, indexing many documents."""
