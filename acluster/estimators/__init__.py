"""The classifiers of acluster and their components."""

from acluster.estimators._adoption import adopting, fit_key
from acluster.estimators._attention_clusters import (
    AttentionClusterClassifier,
    MultimodalAttentionClusterClassifier,
)
from acluster.estimators._cross_validation import (
    AttentionClusterClassifierCV,
    MultimodalAttentionClusterClassifierCV,
)
from acluster.estimators._fitting import (
    can_train_together,
    fit_together,
    network_size,
    pays_together,
)
from acluster.estimators._integration_classifier import (
    BaseIntegrationClassifier,
    IntegrationClassifier,
)
from acluster.estimators._items import check_finite_rows, check_items
from acluster.estimators._labels import (
    LabelledClassifierMixin,
    check_groups,
    check_labels,
    columns_of_fit,
    label_numbers,
    without_missing,
)
from acluster.estimators._parameters import boolean, choice, estimator, integer, parameter, real
from acluster.estimators._saved_model import restore
from acluster.estimators._set_classifier import restore_on_error
from acluster.estimators._training_data import TrainingData
