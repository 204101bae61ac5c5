"""Smoothing of balls, cones, boxes and noise-trained classifiers, in closed form."""
