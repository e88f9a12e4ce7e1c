"""The errors of every fault of a store."""


class StoreError(ValueError):
    """Raised if a store of feature sets cannot be read.

    The message names the array, the file and the place in it, and the remedy.
    """


class RemoteError(StoreError, OSError):
    """Raised if a request to object storage fails; the message names the object and the remedy."""


def array_error(
    name: str, store: str, problem: str, remedy: str = "Restore it, or write the store again."
) -> StoreError:
    """Return the error to raise about an array of a store."""
    return StoreError(f"Array {name!r} of {store} {problem}. {remedy}")
