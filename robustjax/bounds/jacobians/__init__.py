"""Bounds of Jacobians and local Lipschitz constants."""

from robustjax.bounds.jacobians.constants import Lipschitz, jacobian_bounds, lipschitz

__all__ = ["Lipschitz", "jacobian_bounds", "lipschitz"]
