"""Convex sets of inputs, and the smallest value of a linear form over each."""
