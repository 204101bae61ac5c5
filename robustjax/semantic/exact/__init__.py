"""Exact radii of networks along curves that are piecewise linear."""
