"""Vision transformers: the module, its sizes and its weight files."""
