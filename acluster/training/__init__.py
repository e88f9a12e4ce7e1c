"""Training: batches, steps, epochs and checkpoints, for any network over packed sets."""

from acluster.training._batches import Batch, BatchSource, TrainingBatches, bytes_per_part
from acluster.training._cache import CACHES, cached
from acluster.training._checkpoint import Checkpoint, check_resumable, data_digest
from acluster.training._compiled import CompiledStep
from acluster.training._device import (
    check_precision,
    make_generators,
    resolve_device,
    resolve_dtype,
    to_numpy_state,
    to_torch_state,
)
from acluster.training._fit import Fit, Interrupted, Patience
from acluster.training._members import Member, run_epoch, train, warn_of_convergence
from acluster.training._moments import FeatureMoments, feature_moments
from acluster.training._optimizer import OPTIMIZERS, SCHEDULES, Optimizer
from acluster.training._precision import (
    MIN_GAIN,
    Trial,
    bfloat16_gain,
    check_operations,
    has_bfloat16,
    multiplying_in_bfloat16,
)
from acluster.training._ranks import ALONE, RankError, Ranks, joined_group
from acluster.training._recorded import recorded_steps
from acluster.training._resident import checks_while_copying
from acluster.training._threads import at_most_threads, threads_for
from acluster.training._trainer import EnsembleTrainer, Trainer, infer, stack_blocks
from acluster.training._units import UnitsTrainer
from acluster.training._workers import in_worker
