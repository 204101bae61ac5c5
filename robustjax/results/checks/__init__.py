"""Checks of a run, each a generator of findings: one line for what does not agree.

`verify_run` puts them together. A check returns nothing where the run does not tell
what it needs, and `unchecked` says so.
"""
