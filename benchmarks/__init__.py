"""Speed and memory of certification, next to what it cannot be faster than."""
