"""Feature sets in a zarr store: the format, its reader and its writer.

No other folder of the package imports zarr. Even here it is imported inside functions, so that
users who keep their sets in memory do not wait for it.
"""
