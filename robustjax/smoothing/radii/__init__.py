"""Certified radii in every norm, from probabilities and gradients."""
