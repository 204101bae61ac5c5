"""What smoothing takes from each class, with tests of significance."""
