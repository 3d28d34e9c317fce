"""Calls in the form of others' interfaces: OpenAI's, infinity's and vLLM's, Cohere's and Jina's.

Each is answered by an endpoint of the service's own, which `protocol.endpoints.FOREIGN` names: so
keys, roles, limits, batches and metrics are that endpoint's.
"""
