"""The jax_verify package as a second engine for bounds."""

from robustjax.bounds.jax_verify.adapter import bounds, load

__all__ = ["bounds", "load"]
