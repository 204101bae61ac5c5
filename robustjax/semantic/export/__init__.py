"""Moved images in front of a model as a file for other verifiers."""
