"""What lets clip-as-service's clients talk to a search Flow without a change.

Its client (0.8.3) sends DocArray 0.21's documents inside Jina 3's requests: over gRPC as one
bidirectional stream, over WebSocket as binary messages, over HTTP as JSON. All three become the
messages of `clip_service.proto`; `Adapter` answers those through the Flow.
"""
