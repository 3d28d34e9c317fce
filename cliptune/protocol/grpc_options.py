"""gRPC's options at both ends of every connection: what clients may send, and servers must accept.

A peer that is gone without a word is found by pings. A server that is pinged more often than it
allows closes the connection (GOAWAY `too_many_pings`), and the calls on it fail. By default it
allows one ping in five minutes between frames of data, and while no call is under way one in two
hours: so each end's options only make sense beside the other's, and stand here together.
"""

from __future__ import annotations

Options = list[tuple[str, int | str]]

PING_EVERY_MS = 30_000
"""How long a connection is silent before our channels and servers ping."""
PING_TIMEOUT_MS = 20_000
"""How long the answer to a ping may take; then the connection is broken off."""
PINGS_ALLOWED_EVERY_MS = 5_000
"""The shortest time between pings that our servers allow: clients of Jina (clip-as-service's, too)
ping every 10 s, calls or none."""

CONNECTION_AGE_MS = 30_000
"""How old a connection gets before its server asks its client for a new one (give or take 10 %).
Whoever asks for a name's addresses does so once a connection ends: new replicas are found within
this time, and a server that has come last gets its share. Calls and streams under way go on where
they are, however long they take."""
ADDRESSES_EVERY_MS = 2_000
"""The shortest time between two questions for a name's addresses."""
RECONNECT_WITHIN_MS = 2_000
"""The longest pause before an executor that can't be reached is tried again."""

_PINGS: Options = [
    ("grpc.keepalive_time_ms", PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
    # gRPC would stop after two pings without data in between, which a long call may not have.
    ("grpc.http2.max_pings_without_data", 0),
]
_ANY_SIZE: Options = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
_AT_ONCE: Options = [
    # All channels of a process share what they know of an address, also that it could not be
    # reached: a new channel would inherit the pause before the next attempt.
    ("grpc.use_local_subchannel_pool", 1),
]
CLIENT: Options = [
    *_ANY_SIZE,
    *_PINGS,
    *_AT_ONCE,
]
"""Of a client's channel. It pings during calls alone: other peoples' proxies may count pings."""
SERVER: Options = [
    *_ANY_SIZE,
    *_PINGS,
    # Counted among the pings that are allowed: without it, one in two hours where no call is.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", PINGS_ALLOWED_EVERY_MS),
    # A port that another process serves is an error, and isn't shared with it.
    ("grpc.so_reuseport", 0),
    ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
    # Of several addresses of one name, gRPC would take the first that answers, for all calls.
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.dns_min_time_between_resolutions_ms", ADDRESSES_EVERY_MS),
    # One that restarts is found again soon: gRPC's pauses would grow to two minutes.
    ("grpc.max_reconnect_backoff_ms", RECONNECT_WITHIN_MS),
    *_AT_ONCE,
]
"""Of every server here, and of the gateway's channels to its executors: they ping between calls
too, so that a request after a quiet night finds a connection that lives, and go through all
replicas that stand behind an executor's name in turn."""
