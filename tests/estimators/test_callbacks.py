"""scikit-learn's callbacks on a classifier: called after every epoch, and able to stop training."""

from sklearn.callback import ScoringMonitor

from tests.estimators.common import quick


class StopAfterThreeEpochs:
    n_epochs = 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        if context.task_name != "epoch":
            return False
        # Progress bars count up to this number.
        assert context.parent.max_subtasks == 10
        self.n_epochs += 1
        return self.n_epochs == 3


def test_callback_sees_every_epoch_and_stops_training(sets_and_labels):
    callback = StopAfterThreeEpochs()
    clf = quick(max_iter=10).set_callbacks(callback).fit(*sets_and_labels)
    assert clf.n_iter_ == callback.n_epochs == 3


def test_scoring_monitor_logs_every_epoch(sets_and_labels):
    monitor = ScoringMonitor(scoring="accuracy")
    clf = quick(max_iter=4).set_callbacks(monitor).fit(*sets_and_labels)
    scores = [row["accuracy"] for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(scores) == 4
    assert scores[-1] == clf.score(*sets_and_labels)
