"""The front of both Flows: gRPC and HTTP, who may ask what, and clip-as-service's form."""
