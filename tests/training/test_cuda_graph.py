"""`CudaRecorder` with torch's own `torch.cuda.graph`, on primitives that need no GPU."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from acluster.training import _cuda_graph
from acluster.training._cuda_graph import CudaRecorder

DEVICE = torch.device("cuda", 3)


class Cuda:
    """Primitives of a device that keep its current stream and a list of their calls."""

    def __init__(self):
        self.current = "training"
        self.calls = []
        self.is_invalid = False  # whether something forbidden has been called while recording

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before  # not after an error, as with torch's graph

    def set_stream(self, stream):
        self.current = stream

    def register_generator_state(self, generator):
        self.calls.append(("register", generator))

    def capture_begin(self, pool, capture_error_mode, **options):
        self.calls.append(("begin", pool, capture_error_mode, self.current))

    def capture_end(self):
        self.calls.append(("end",))
        if self.is_invalid:
            raise RuntimeError("CUDA error: failed due to a previous error during capture")

    def replay(self):
        self.calls.append(("replay", self.current))

    def end_allocation(self, index, pool):
        self.calls.append(("end allocation", index, pool))
        raise RuntimeError("not allocating to this pool")  # as after a recording that succeeds


class DefaultGenerator:
    """The generator of a device, which a recording that fails leaves with its own state."""

    device = torch.device("cpu")

    def __init__(self):
        self.state = torch.Generator()

    def get_state(self):
        return self.state.get_state()

    def graphsafe_set_state(self, generator):
        self.state = generator


@pytest.fixture
def cuda(monkeypatch):
    """Replace what `torch.cuda.graph` and `CudaRecorder` call."""
    cuda = Cuda()
    for name, value in {
        "CUDAGraph": lambda: cuda,
        "Stream": lambda device, priority: f"side {priority}",
        "stream": cuda.stream,
        "current_stream": lambda device: cuda.current,
        "set_stream": cuda.set_stream,
        "device": lambda device: nullcontext(),
        "graph_pool_handle": lambda: (0, 7),
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    cuda.generators = [DefaultGenerator() for _ in range(4)]
    monkeypatch.setattr(torch.cuda, "default_generators", cuda.generators)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", cuda.end_allocation, raising=False)
    _cuda_graph._stream.cache_clear()
    yield cuda
    _cuda_graph._stream.cache_clear()


def test_records_on_a_side_stream_and_replays_on_the_current_one(cuda):
    loss, record = torch.tensor(1.0), CudaRecorder(DEVICE)
    replay = record(lambda: loss, "generator")
    assert cuda.calls == [
        ("register", "generator"),
        ("begin", (0, 7), "thread_local", "side -1"),
        ("end",),
    ]
    assert cuda.current == "training"
    first = replay()
    loss.fill_(2)  # as the next replay does
    assert (first.item(), replay().item()) == (1, 2)
    assert cuda.calls[3:] == [("replay", "training")] * 2


def test_a_recording_that_fails_names_the_cause_and_restores_the_stream(cuda):
    def step():
        cuda.is_invalid = True
        raise RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing")

    record = CudaRecorder(DEVICE)
    try:
        raise ValueError("handled by the caller of fit")
    except ValueError:
        with pytest.raises(RuntimeError, match=r"^CUDA error: operation not permitted$"):
            record(step, "generator")
    assert cuda.current == "training"
    assert cuda.calls[-1] == ("end allocation", 3, (0, 7))
    assert not _cuda_graph._lock.locked()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_recording_that_fails_leaves_no_generator_with_its_state(cuda, error):
    def step():
        raise error

    default = cuda.generators[3]
    recorded = default.state.manual_seed(5)
    torch.rand(7, generator=recorded)
    with pytest.raises(error):
        CudaRecorder(DEVICE)(step, "generator")
    assert default.state is not recorded
    assert torch.equal(default.get_state(), recorded.get_state())


def test_an_interrupted_recording_restores_the_stream(cuda):
    def step():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CudaRecorder(DEVICE)(step, "generator")
    assert cuda.current == "training"
    assert not _cuda_graph._lock.locked()
