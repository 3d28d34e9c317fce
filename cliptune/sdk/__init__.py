"""The SDK: what `import cliptune` offers to fine-tune, watch, fetch and use models."""
