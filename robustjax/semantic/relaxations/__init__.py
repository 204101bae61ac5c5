"""Pixels that an attribute can give, as intervals and planes."""
