"""The structure of a network, without its weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from acluster.nn import EnsembleNetwork, Integration, IntegrationNetwork, ScoreFusionNetwork
from acluster.training import resolve_device


@dataclass(frozen=True, eq=False)
class Architecture:
    """The parameters from which a network is built.

    Attributes
    ----------
    integration : subclass of acluster.nn.Integration
        The class that integrates the local features of a modality into one vector.

    modalities : dict of str to dict
        For every modality, the arguments of `integration`; ``n_features`` is one of them.

    n_outputs : int
        The number of logits per item.

    standardize : bool
        Whether the network standardizes the local features.

    fusion : {"features", "scores"} or None
        How modalities are combined; None for classifiers that do not offer the choice.

    is_softmax : bool
        Whether the logits go through one softmax. If not, each goes through its own sigmoid.

    n_members : int
        The number of networks whose probabilities are averaged.
    """

    integration: type[Integration]
    modalities: Mapping[str, Mapping[str, Any]]
    n_outputs: int
    standardize: bool = False
    fusion: str | None = None
    is_softmax: bool = False
    n_members: int = 1

    @classmethod
    def of(
        cls,
        integration: type[Integration],
        modalities: Mapping[str, Mapping[str, Any]],
        **options: Any,
    ) -> Architecture:
        """Return the architecture with the defaults of arguments that are not given."""
        defaults = {
            name: one.default
            for name, one in inspect.signature(integration).parameters.items()
            if one.default is not one.empty
        }
        complete = {name: {**defaults, **own} for name, own in modalities.items()}
        return cls(integration, complete, **options)

    @property
    def widths(self) -> dict[str, int]:
        """The width of a local feature in every modality."""
        return {name: arguments["n_features"] for name, arguments in self.modalities.items()}

    def outline(self, dropout: float) -> IntegrationNetwork | EnsembleNetwork:
        """Return the network on torch's meta device: its shapes, without memory or weights."""
        if self.n_members == 1:
            return self._outline_of_member(dropout)
        members = [self._outline_of_member(dropout) for _ in range(self.n_members)]
        return EnsembleNetwork(members, is_softmax=self.is_softmax)

    def _outline_of_member(self, dropout: float) -> IntegrationNetwork:
        # On the meta device torch draws no random numbers, so its global state does not change.
        with torch.device("meta"):
            integrations = [self.integration(**arguments) for arguments in self.modalities.values()]
            widths = list(self.widths.values()) if self.standardize else None
            if self.fusion != "scores":
                network = IntegrationNetwork(integrations, self.n_outputs, dropout, widths)
            else:
                network = ScoreFusionNetwork(
                    integrations, self.n_outputs, dropout, widths, is_softmax=self.is_softmax
                )
        # Weights are drawn in float32, also if the user has set another default for torch.
        return network if torch.get_default_dtype() == torch.float32 else network.float()

    def build(
        self, dropout: float, dtype: str, state: dict[str, torch.Tensor], device: str
    ) -> IntegrationNetwork | EnsembleNetwork:
        """Return the network with these weights, on the device if it is available."""
        network = self.outline(dropout).to_empty(device="cpu").to(getattr(torch, dtype))
        network.load_state_dict(state)
        try:
            return network.to(resolve_device(device))
        except ValueError:  # a model trained on a GPU loads on a machine without one
            return network

    def initialize(
        self, dropout: float, generators: Sequence[torch.Generator]
    ) -> IntegrationNetwork | EnsembleNetwork:
        """Return the network on the CPU; each member's weights are drawn by its generator.

        Raises
        ------
        ValueError
            If `reset_parameters` of a user's class leaves a parameter or buffer unset, or a
            buffer is not persistent.
        """
        network = self.outline(dropout)
        _check_buffers_are_persistent(network)
        network = network.to_empty(device="cpu")
        with torch.no_grad():
            # A parameter that is never set would hold arbitrary memory. A mark reveals it.
            for tensor in network.state_dict().values():
                _mark(tensor)
            for member, generator in zip(members_of(network), generators, strict=True):
                member.reset_parameters(generator)
        for name, tensor in network.state_dict().items():
            if _is_marked(tensor):
                raise ValueError(
                    f"reset_parameters does not set {name!r}. It must set every parameter and "
                    "buffer; values computed in the constructor are not kept."
                )
        return network

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and _are_equal(vars(self), vars(other))

    def difference(self, other: Architecture) -> str:
        """Return this network's parameters that differ from those of another, as text."""
        pairs = [(own, other.modalities[name]) for name, own in self.modalities.items()]
        options = [{**one._options(), "n_members": one.n_members} for one in (self, other)]
        pairs += [(options[0], options[1]), (self._class(), other._class())]
        differing = {
            f"{name}={value!r}"
            for own, others in pairs
            for name, value in own.items()
            if not _are_equal(value, others.get(name))
        }
        return ", ".join(sorted(differing))

    def _options(self) -> dict[str, Any]:
        """Return the parameters of the network other than those of its integrations."""
        options: dict[str, Any] = {"standardize": self.standardize}
        if self.fusion is not None:
            options["fusion"] = self.fusion
        if self.n_members > 1:
            options["n_members"] = self.n_members
        return options

    def _class(self) -> dict[str, Any]:
        return {"integration": self.integration.__qualname__}

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes and options, without the class of the integration."""
        return {
            "integrations": {name: dict(own) for name, own in self.modalities.items()},
            "n_outputs": self.n_outputs,
            "network": self._options(),
        }

    @classmethod
    def from_dict(
        cls, sizes: Mapping[str, Any], integration: type[Integration], is_softmax: bool
    ) -> Architecture:
        """Invert `to_dict`; arguments missing from an older `sizes` take their defaults."""
        return cls.of(
            integration,
            sizes["integrations"],
            n_outputs=sizes["n_outputs"],
            is_softmax=is_softmax,
            **sizes["network"],
        )


def device_name(classifier: Any) -> str:
    """Return the device of a classifier's network; "auto" is the CPU for one that prefers it."""
    is_small = classifier.device == "auto" and classifier._prefers_cpu
    return "cpu" if is_small else str(classifier.device)


def members_of(network: IntegrationNetwork | EnsembleNetwork) -> list[IntegrationNetwork]:
    """Return the networks of an ensemble, or the only network."""
    return [*network.members] if isinstance(network, EnsembleNetwork) else [network]


def _check_buffers_are_persistent(network: torch.nn.Module) -> None:
    """Raise a ValueError for a buffer that the state of the network, and so a pickle, lacks."""
    saved = network.state_dict()
    for name, _ in network.named_buffers():
        if name not in saved:
            raise ValueError(
                f"The buffer {name!r} is not persistent, so its values would be lost. Register it "
                "without persistent=False, and set it in reset_parameters."
            )


def _mark(tensor: torch.Tensor) -> None:
    """Fill with a value that no initialization sets; booleans and bytes have none."""
    if tensor.is_floating_point() or tensor.is_complex():
        tensor.fill_(torch.nan)
    elif tensor.dtype.is_signed:
        tensor.fill_(torch.iinfo(tensor.dtype).min)


def _is_marked(tensor: torch.Tensor) -> bool:
    """Whether an element is still as `_mark` left it, or not finite."""
    if tensor.is_floating_point() or tensor.is_complex():
        return not bool(tensor.isfinite().all())
    return tensor.dtype.is_signed and bool((tensor == torch.iinfo(tensor.dtype).min).any())


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two values are equal; arrays and tensors compare element by element."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_are_equal(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return one is other or bool(one == other)
