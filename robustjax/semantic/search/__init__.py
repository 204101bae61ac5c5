"""Proofs cell by cell, and counterexamples."""
