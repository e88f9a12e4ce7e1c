"""Whether this code runs in a worker of a parallel call."""

import multiprocessing
import sys


def in_worker() -> bool:
    """Return whether a parallel call, such as a search, runs this code in one of its workers.

    Workers of joblib's processes have names of their own. Those of Ray are called like a main
    process, but joblib tells them that the call is nested; so it does for threads. Dask keeps the
    task that a thread works on.

    Returns
    -------
    bool

    Examples
    --------
    >>> from joblib import Parallel, delayed
    >>> from acluster.training import in_worker
    >>> in_worker()
    False
    >>> Parallel(n_jobs=2, backend="threading")(delayed(in_worker)() for _ in range(2))
    [True, True]
    """
    if multiprocessing.current_process().name != "MainProcess":
        return True
    from joblib.parallel import get_active_backend

    if (get_active_backend()[0].nesting_level or 0) > 0:
        return True
    worker = sys.modules.get("distributed.worker")  # imported if there are tasks of Dask
    return worker is not None and hasattr(worker.thread_state, "execution_state")
