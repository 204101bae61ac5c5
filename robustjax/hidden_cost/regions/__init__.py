"""Decision regions measured: along rays, on slices, by class."""
