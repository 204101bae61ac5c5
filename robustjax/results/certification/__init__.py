"""A certification run: its settings, its images in batches, its rows.

`experiments/certify.py` writes such runs; `verify` and `replay` read them.
"""
