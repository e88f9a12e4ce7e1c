"""Feature sets in a zarr store: its format, its reader and its writer."""
