"""ONNX networks as JAX functions."""
