"""Similarities, negatives and positives: the parts that losses are composed of."""
