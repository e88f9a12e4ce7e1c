"""What a reader of hostile files must not do, and a record of the inputs with which it did."""

import hashlib
import os
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path

MAX_SECONDS, MAX_GROWTH_BYTES = 2, 200 << 20
CORPUS = Path(__file__).parent / "corpus"

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod")
_RUNNING = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen")
_RUNNING += ("pickle.find_class", "socket.connect", "ctypes.dlopen")
_watched = []  # the folder that may be written to, while it is watched
_seen = []


def _hook(event, arguments):
    if not _watched:
        return
    is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
    if is_write or event in _CHANGING:
        path = arguments[0]
        is_path = isinstance(path, str | bytes | os.PathLike)
        if is_path and not os.path.abspath(os.fsdecode(path)).startswith(_watched[0]):
            _seen.append(f"{event} {path!r}")
    elif event in _RUNNING:
        _seen.append(f"{event} {arguments!r:.200}")


sys.addaudithook(_hook)


@contextmanager
def watched(folder, target, content):
    """Fail if the block takes long, raises, runs a program or writes outside of the folder.

    The content is then kept in the corpus, which every later run begins with.
    """
    _watched[:] = [os.path.abspath(folder)]
    _seen.clear()
    started = time.process_time()  # other processes must not count
    problem = cause = None
    try:
        yield
    except Exception as error:  # the caller has caught what is documented
        problem, cause = f"raised {type(error).__name__}: {error!s:.300}", error
    finally:
        _watched.clear()
    if (seconds := time.process_time() - started) > MAX_SECONDS:
        problem = f"took {seconds:.1f} s"
    if _seen:
        problem = f"did {_seen[:3]}"
    if problem is not None:
        path = CORPUS / target / hashlib.sha256(content).hexdigest()[:16]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        raise AssertionError(f"{target}: {path} {problem}") from cause


@contextmanager
def bounded_memory():
    """Fail if the memory of the process grows by more than 200 MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert growth < MAX_GROWTH_BYTES, f"the memory grew by {growth >> 20} MB"


def corpus(target):
    """Return the inputs that have failed before."""
    return [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]
