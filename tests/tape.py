"""A stand-in for CUDA graphs on a CPU: record torch's operations, and repeat them in place."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READ_BACK = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class Tape(TorchDispatchMode):
    """Operations with their arguments and results, at fixed addresses.

    Like a CUDA graph, it repeats operations on the same memory and runs no Python code in
    between: a number that Python has passed once is repeated as it was. Like a capture, it raises
    an error if a value is read back.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in READ_BACK:
            raise RuntimeError("operation not permitted when stream is capturing\nand details")
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class TapeRecorder:
    """Records steps of a trainer; unlike a capture, a tape also runs the step, which is undone.

    `change(trainer)` is called after every repetition, to make it wrong.
    """

    def __init__(self, trainer, change=lambda trainer: None):
        self.failure = None
        self.n_recorded = self.n_replayed = 0
        self._trainer = trainer
        self._change = change

    def __call__(self, step, generator):
        assert generator is self._trainer.generator
        state = self._trainer.state()
        with Tape() as tape:
            loss = step()
        self._trainer.load_state(state)
        self.n_recorded += 1

        def replay():
            self.n_replayed += 1
            tape.replay()
            self._change(self._trainer)
            return loss.clone()

        return replay


class FailingRecorder:
    """Fails as a capture may, in the middle of a step, with gradients and an unusable generator."""

    def __init__(self, trainer):
        self.failure = None
        self._trainer = trainer

    def __call__(self, step, generator):
        state = self._trainer.state()
        step()
        self._trainer.load_state(state)
        generator.manual_seed(12345)
        for parameter in self._trainer.network.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan)
        raise RuntimeError("CUDA error: out of luck\nfurther lines")


def attend_densely(values, offsets, logits, shift=None, n_learned=None):
    """Compute `attend` without reading back; rows beyond the last set are ignored."""
    item = torch.searchsorted(
        offsets[1:], torch.arange(len(values), device=values.device), right=True
    )
    of_set = item == torch.arange(len(offsets) - 1, device=values.device)[:, None]
    scores = logits.T.masked_fill(~of_set[:, None], -torch.inf)  # (n, N, R)
    pooled = scores.softmax(dim=2) @ values
    if shift is None:
        return pooled
    shifted = shift[0] * pooled + shift[1]
    return torch.nn.functional.normalize(shifted, dim=-1) * logits.shape[1] ** -0.5


def below_highest_densely(logits, offsets, k):
    """Compute the mask of the k highest in operations that read nothing back."""
    rows = torch.arange(len(logits), device=logits.device)
    item = torch.searchsorted(offsets[1:], rows, right=True)
    in_set = item[:, None] == item
    higher = (logits[None] > logits[:, None]) & in_set[..., None]  # (row, other, unit)
    return (higher.sum(dim=1) >= k) & (item < len(offsets) - 1)[:, None]
