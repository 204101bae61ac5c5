"""The folder of a run: rows, locks, starts, provenance."""
