"""From names to towers: loading, artifacts, ONNX export, WiSE-FT."""
