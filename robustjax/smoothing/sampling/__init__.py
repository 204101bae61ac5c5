"""Noise, votes under it, and sums of gradients: what the device does."""
