"""The parameters of the classifiers: the default, constraints and description of each, once.

`parameter` declares a parameter as the field of a dataclass. `estimator` turns a class with such
fields into a scikit-learn estimator. The dataclass makes the constructor, whose signature
scikit-learn and editors read. The constraints become `_parameter_constraints`, and the
descriptions become the "Parameters" section of the class's docstring.
"""

import inspect
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from textwrap import indent
from typing import Any, TypeVar, dataclass_transform

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints

from acluster.nn import WEIGHTINGS, Weighting
from acluster.training import CACHES, OPTIMIZERS, SCHEDULES

_C = TypeVar("_C", bound=type)


def parameter(*, default: Any, type: str, constraints: list[Any], doc: str) -> Any:
    """Declare a parameter.

    Parameters
    ----------
    default : object
        The default value.

    type : str
        The type in the words of the docstring; the default is appended.

    constraints : list
        The allowed values, in the form of scikit-learn's parameter validation.

    doc : str
        What the parameter does, and when to change it.
    """
    metadata = {"type": type, "constraints": constraints, "doc": inspect.cleandoc(doc)}
    return field(default=default, metadata=metadata)


def boolean(*, default: bool, doc: str) -> Any:
    """Declare a parameter that is True or False."""
    return parameter(default=default, type="bool", constraints=["boolean"], doc=doc)


def integer(*, default: int | None, type: str = "int", doc: str) -> Any:
    """Declare a parameter that is a positive integer; None is allowed if `type` says so."""
    constraints = [Interval(Integral, 1, None, closed="left"), *([None] if "None" in type else [])]
    return parameter(default=default, type=type, constraints=constraints, doc=doc)


def real(*, default: float | None, within: Interval, type: str = "float", doc: str) -> Any:
    """Declare a parameter that is a number in an interval; None is allowed if `type` says so."""
    constraints = [within, *([None] if "None" in type else [])]
    return parameter(default=default, type=type, constraints=constraints, doc=doc)


def choice(*, default: str, options: Iterable[str], doc: str) -> Any:
    """Declare a parameter that is one of several strings."""
    type_ = "{" + ", ".join(f'"{option}"' for option in options) + "}"
    return parameter(default=default, type=type_, constraints=[StrOptions(set(options))], doc=doc)


_POSITIVE = Interval(Real, 0, None, closed="neither")
_NON_NEGATIVE = Interval(Real, 0, None, closed="left")
BELOW_ONE = Interval(Real, 0, 1, closed="left")


@dataclass(kw_only=True, eq=False, repr=False)
class ClusterParameters:
    """The parameters of attention clusters; they precede the training parameters."""

    cluster_size: int = integer(
        default=32,
        doc="""
        The number N of attention units. More units find more kinds of local features, at
        proportional cost.
        """,
    )
    weighting: str | type[Weighting] = parameter(
        default="fc1",
        type='{"fc1", "fc2", "average"} or subclass of acluster.nn.Weighting',
        constraints=[StrOptions(set(WEIGHTINGS)), callable],
        doc="""
        The weighting function: how a unit scores a local feature. "fc1" is one linear layer,
        "fc2" two with a tanh between them. "average" gives all local features the same weight:
        the baseline of the paper, where all units compute the same mean.
        """,
    )
    hidden_size: int = integer(
        default=10,
        doc='The number H of hidden units of each attention unit, for ``weighting="fc2"``.',
    )
    shifting: bool = boolean(
        default=True,
        doc="""
        Whether the shifting operation follows each unit. It normalizes the output of every unit,
        so that modalities of different scale become comparable.
        """,
    )
    n_attended: int | None = integer(
        default=5,
        type="int or None",
        doc="""
        Each unit attends only to its `n_attended` highest-scoring local features (ties
        included). None: each unit attends to all local features, as in the paper.
        """,
    )
    pyramid_levels: int = integer(
        default=1,
        doc="""
        The number of levels of a temporal pyramid, for sets whose order matters. Level
        l = 0, 1, ... divides a set into 2^l parts, and each unit attends only to the local
        features of one part. The units are distributed evenly over the parts of all levels, at
        least one each; 3 levels have 7 parts. A part has at least one local feature. 1: every
        unit attends to the whole set, and the order does not matter.
        """,
    )
    hidden_features: int = parameter(
        default=0,
        type="int",
        constraints=[Interval(Integral, 0, None, closed="left")],
        doc="""
        The number of learned nonlinear features ``relu(Wᵀx + b)`` of every local feature, beside
        the given ones. Units score and pool both. Try 64 if even the training set is not fitted
        well. 0: none.
        """,
    )
    n_local_features: int | None = integer(
        default=None,
        type="int or None",
        doc="""
        Local feature set augmentation: every training step uses this many local features of each
        set, drawn at random without replacement. Prediction uses all. None: training also uses
        all.
        """,
    )


@dataclass(kw_only=True, eq=False, repr=False)
class TrainingParameters:
    """The training parameters, which every set classifier has."""

    standardize: bool | str = parameter(
        default="auto",
        type='bool or "auto"',
        constraints=["boolean", StrOptions({"auto"})],
        doc="""
        Whether to center and scale every feature by its mean and standard deviation over all
        local features of the training set. "auto": `fit` does, and a first `partial_fit`, which
        sees only some of the items, does not. The network standardizes, so saved and exported
        models include it. A fit that continues an earlier one (`warm_start`, `partial_fit`) keeps
        the statistics of the first.
        """,
    )
    dropout: float = real(
        default=0.5,
        type="float in [0, 1)",
        within=BELOW_ONE,
        doc="""
        The fraction of the global feature that is zeroed at random before the last layer during
        training. Lower it if the training loss stays high.
        """,
    )
    optimizer: str = choice(
        default="adam",
        options=OPTIMIZERS,
        doc="""
        The optimizer. The paper uses RMSprop for real videos, and Adam for Flash-MNIST.
        """,
    )
    learning_rate: float = real(
        default=1e-2,
        within=_POSITIVE,
        doc="The learning rate of the optimizer. Lower it if training diverges.",
    )
    learning_rate_schedule: str = choice(
        default="constant",
        options=SCHEDULES,
        doc="""
        How the learning rate changes from epoch to epoch. "cosine": it falls to almost 0 over
        `max_iter` epochs, which are all trained; `tol` and `n_iter_no_change` have no effect.
        With `warm_start`, every fit begins with the full learning rate. "constant": training
        stops as `tol` says. `partial_fit` always has a constant learning rate.
        """,
    )
    weight_decay: float = real(
        default=0.0,
        within=_NON_NEGATIVE,
        doc='The l2 penalty on all parameters; for "adamw", decoupled weight decay.',
    )
    max_grad_norm: float | None = real(
        default=5.0,
        type="float or None",
        within=_POSITIVE,
        doc="Gradients are clipped to this l2 norm over all parameters. None: no clipping.",
    )
    batch_size: int = integer(
        default=32, doc="The number of items per training step, and per batch of a prediction."
    )
    n_members: int = integer(
        default=1,
        doc="""
        The number of networks, which differ in their initial weights and dropout. Predictions
        average their probabilities; `transform` and `attention_weights` concatenate their units.
        They are trained together, so 8 networks cost less than 8 fits.
        """,
    )
    max_iter: int = integer(
        default=200, doc="The number of epochs; with a constant learning rate, the maximum number."
    )
    tol: float | None = real(
        default=1e-4,
        type="float or None",
        within=_NON_NEGATIVE,
        doc="""
        With a constant learning rate, training stops once the loss (with `early_stopping`, the
        validation accuracy) has not improved by more than `tol` for `n_iter_no_change` epochs.
        None: train for exactly `max_iter` epochs.
        """,
    )
    n_iter_no_change: int = integer(
        default=10,
        doc="With a constant learning rate, the number of epochs to wait for an improvement.",
    )
    early_stopping: bool = boolean(
        default=False,
        doc="""
        Whether to restore the weights of the epoch with the best accuracy on a validation set
        (for an indicator y, the fraction of correct entries). With a constant learning rate, this
        accuracy also decides when to stop. The validation set is `X_val` of `fit` or, without it,
        a part of X.
        """,
    )
    validation_fraction: float = real(
        default=0.1,
        type="float in (0, 1)",
        within=Interval(Real, 0, 1, closed="neither"),
        doc="The fraction of X held out for early stopping, stratified by class.",
    )
    class_weight: dict[Any, float] | str | None = parameter(
        default=None,
        type='dict or "balanced"',
        constraints=[StrOptions({"balanced"}), dict, None],
        doc="""
        Weights of the classes in the loss. "balanced" is the paper's 1/S for a class of S items.
        """,
    )
    warm_start: bool = boolean(
        default=False,
        doc="""
        Whether `fit` continues from the weights, the dtype and the optimizer state of the last
        fit. A validation set held out from X is drawn again.
        """,
    )
    device: str = parameter(
        default="auto",
        type="str",
        constraints=[str],
        doc="""
        Where to compute: "auto", "cpu", "cuda", "cuda:1". "auto" is a GPU if there is one, except
        for steps so small that a GPU would mostly wait for the next kernel.
        """,
    )
    dtype: str = choice(
        default="auto",
        options=("auto", "float32", "float64"),
        doc="""
        The precision of the network's parameters. "auto": float32 for float16 and float32
        features, else float64.
        """,
    )
    precision: str = choice(
        default="full",
        options=("full", "mixed"),
        doc="""
        "mixed" multiplies in bfloat16, in `fit` and in predictions, where that is faster: on GPUs
        of compute capability 8.0 or higher, and on a CPU with bfloat16 instructions, in the
        operations that `fit` measures to be faster. The first measurement is kept in the user's
        cache folder, so that the same seed gives the same bits; `verbose` shows the choice.
        Parameters and their updates stay in float32. A CPU without instructions for bfloat16
        computes as with "full". `transform` and `attention_weights` always use full precision.
        """,
    )
    cache: str = choice(
        default="auto",
        options=CACHES,
        doc="""
        Where the local features are kept during training. "stream": a store is read batch by
        batch in a background thread. "memory": a store is read into memory once. "device": on the
        device, in `dtype`, or in float16 if the features are float16 and the device is a GPU.

        "auto": "device" on a GPU, if the features take at most half of its free memory. Otherwise,
        "stream" for a store of more than 4 MiB that is local and uncompressed, because reading
        keeps up with training. Otherwise "memory", if the features take at most scikit-learn's
        `working_memory` (1 GiB by default). In a worker of a parallel search, "stream" from 4 MiB
        on for every store. On a CPU, with a local and uncompressed store, every choice gives a
        bit-identical model.
        """,
    )
    random_state: int | np.random.RandomState | None = parameter(
        default=None,
        type="int, RandomState instance or None",
        constraints=["random_state"],
        doc="""
        Controls the initial weights, the validation set, the order of the items, the sampling of
        local features, and dropout. The same int gives bit-identical results on the same device.
        """,
    )
    verbose: bool = boolean(
        default=False,
        doc="""
        Whether to print a line per epoch, and to show the progress of predictions on a terminal.
        For a progress bar over the epochs, use `set_callbacks`.
        """,
    )
    distributed: bool = boolean(
        default=False,
        doc="""
        Whether `fit` trains in all processes of torch.distributed's default group, as torchrun
        starts them. Every process calls `fit` with the same arguments. It trains the whole network
        on its part of every batch or, where that moves less data between processes, its part of
        the attention units on whole batches. The model is that of one process, up to rounding.
        `random_state` is that of rank 0, which alone prints, runs callbacks and writes checkpoints.
        Predictions take place in the process that calls them.
        """,
    )


def with_former_defaults(kind: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Add the parameters that a classifier of this kind did not have when it was saved.

    Their values are those of what it did then, which may differ from the defaults.
    """
    former = {"n_attended": None, "learning_rate_schedule": "constant"}
    known = kind._get_param_names()
    return {name: value for name, value in former.items() if name in known} | parameters


@dataclass_transform(
    kw_only_default=True,
    eq_default=False,
    field_specifiers=(parameter, boolean, integer, real, choice),
)
def estimator(cls: _C) -> _C:
    """Make the constructor, the constraints and the docstring of a class from its parameters.

    A subclass may declare another default for an inherited parameter, as in
    ``learning_rate: float = 0.003``; constraints and description are then inherited.
    """
    summary = inspect.cleandoc(cls.__doc__ or "")
    made: Any = dataclass(kw_only=True, eq=False, repr=False)(cls)
    per_modality = getattr(made, "_per_modality", ())
    constraints, entries = {}, []
    for one in fields(made):
        declared = _declaration(made, one.name)
        type_, constraints[one.name] = declared["type"], list(declared["constraints"])
        if one.name in per_modality:
            type_ = f"{type_}, or dict of one per modality"
            constraints[one.name].append(dict)
        default = json.dumps(one.default) if isinstance(one.default, str) else one.default
        text = indent(declared["doc"], "    ")
        entries.append(f"{one.name} : {type_}, default={default}\n{text}")
    made._parameter_constraints = constraints
    # Without any such section under python -OO, which strips docstrings.
    attributes = next(filter(None, (_section(base, "Attributes") for base in cls.__mro__)), "")
    made.__doc__ = _with_sections(
        summary, {"Parameters": "\n\n".join(entries), "Attributes": attributes}
    )
    return made


def _declaration(cls: type, name: str) -> dict[str, Any]:
    """Return the nearest declaration of a parameter by `parameter`, in the class or its bases."""
    for base in cls.__mro__:
        own = vars(base).get("__dataclass_fields__", {}).get(name)
        if own is not None and own.metadata:
            return dict(own.metadata)
    raise TypeError(f"{cls.__name__}.{name} is declared without `parameter`.")


def _section(cls: type, title: str) -> str:
    """Return the text of a numpydoc section of a class's own docstring, or an empty string."""
    text = inspect.cleandoc(vars(cls).get("__doc__") or "")
    _, _, after = text.partition(f"\n{title}\n{'-' * len(title)}\n")
    lines = after.split("\n")
    ends = [i - 1 for i in range(1, len(lines)) if lines[i] and set(lines[i]) == {"-"}]
    return "\n".join(lines[: ends[0]] if ends else lines).strip()


def _with_sections(docstring: str, sections: dict[str, str]) -> str:
    """Insert numpydoc sections before the first one of the docstring."""
    lines = docstring.split("\n")
    first = next(
        (i for i in range(1, len(lines)) if lines[i] and set(lines[i]) == {"-"}), len(lines) + 1
    )
    text = [f"{title}\n{'-' * len(title)}\n{body.strip()}\n" for title, body in sections.items()]
    return "\n".join([*lines[: first - 1], *text, *lines[first - 1 :]])


def value_per_modality(estimator: Any, name: str, modalities: Iterable[str]) -> dict[str, Any]:
    """Return the value of a parameter for every modality.

    Raises
    ------
    ValueError
        If the parameter is a dict whose modalities differ from these.

    sklearn.utils._param_validation.InvalidParameterError
        If a value in the dict is not allowed.
    """
    value = getattr(estimator, name)
    if not isinstance(value, dict):
        return dict.fromkeys(modalities, value)
    if set(value) != set(modalities):
        raise ValueError(
            f"{name}={value!r} names the modalities {[*value]}, but X has {[*modalities]}. "
            "Give each of these a value, or pass one value for all."
        )
    constraints = [one for one in estimator._parameter_constraints[name] if one is not dict]
    for modality in modalities:
        key = f"{name}[{modality!r}]"
        validate_parameter_constraints(
            {key: constraints}, {key: value[modality]}, caller_name=type(estimator).__name__
        )
    return {modality: value[modality] for modality in modalities}
