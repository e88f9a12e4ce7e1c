"""The number of threads of a training step."""

import threading

import pytest
import torch

from acluster import AttentionClusterClassifier
from acluster.estimators import _fitting
from acluster.training import threads_for
from tests.conftest import make_sets


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_threads_follow_the_work_and_never_exceed_those_outside():
    for n_operations, expected in [(0, 1), (1e6, 1), (1e8, 2), (1e15, 2)]:
        with threads_for(n_operations):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_setting_outside_survives_errors_nesting_and_other_threads():
    with pytest.raises(KeyError), threads_for(0):
        raise KeyError
    assert torch.get_num_threads() == 2
    with threads_for(0), threads_for(0):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    inside, leave = threading.Barrier(3), threading.Barrier(3)

    def work():
        with threads_for(0):
            inside.wait()
        leave.wait()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    with threads_for(0):
        inside.wait()
    leave.wait()
    for worker in workers:
        worker.join()
    seen = []
    new = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert (torch.get_num_threads(), seen) == (2, [2])


@pytest.mark.usefixtures("two_threads")
def test_small_fit_takes_one_thread_and_leaves_the_setting(monkeypatch):
    X, y = make_sets()
    seen, train = [], _fitting.train

    def noted(members):
        seen.append(torch.get_num_threads())
        train(members)

    monkeypatch.setattr(_fitting, "train", noted)
    AttentionClusterClassifier(max_iter=2, tol=None, weighting="fc2").fit(X, y)
    assert seen == [1]
    assert torch.get_num_threads() == 2
