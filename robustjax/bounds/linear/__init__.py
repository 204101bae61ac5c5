"""Linear bounds: backward passes, which values get them, and in which order."""
