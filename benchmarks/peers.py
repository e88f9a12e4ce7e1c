"""Define the peers: other ways to train the same network, by hand or with other libraries.

A peer takes a `Task` and prepares its data in the required form. `fit` trains a new network, and
`predict` returns the class probabilities of all sets. Packages are imported where they are used, so
that the other peers run without them.
"""

import importlib.util

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from workloads import DROPOUT, LEARNING_RATE, MAX_GRAD_NORM

ABMIL_ATTENTION_SIZE = 128  # the default of torchmil


def available(task):
    """Return the peers that can do the task, and the reasons why others cannot."""
    runnable, skipped = {}, {}
    for name, peer in PEERS.items():
        if reason := peer.obstacle(task):
            skipped[name] = reason
        else:
            runnable[name] = peer
    return runnable, skipped


class Peer:
    """Base class of the peers."""

    package = None  # required package besides torch

    @classmethod
    def obstacle(cls, task):
        """Return why this peer cannot do the task, or None if it can."""
        if cls.package and importlib.util.find_spec(cls.package) is None:
            return f"{cls.package} is not installed"
        return None

    def __init__(self, task):
        self.task = task
        self.sets = [torch.from_numpy(array) for array in task.arrays]
        self.target = torch.from_numpy(task.y)

    def loss(self, logits, target):
        """Return the binary or multiclass cross-entropy."""
        if self.task.n_outputs == 1:
            return functional.binary_cross_entropy_with_logits(logits.flatten(), target.float())
        return functional.cross_entropy(logits, target)

    def probabilities(self, logits):
        """Return the class probabilities (B, n_classes)."""
        if self.task.n_outputs == 1:
            positive = logits.flatten().sigmoid()
            return torch.stack([1 - positive, positive], dim=1)
        return logits.softmax(dim=1)


class AttentionUnit(nn.Module):
    """One attention unit with its own layers (equations 2, 4 and 7)."""

    def __init__(self, n_features, cluster_size):
        super().__init__()
        self.score = nn.Linear(n_features, 1, bias=False)
        self.alpha = nn.Parameter(torch.randn(1) * cluster_size**-0.25)
        self.beta = nn.Parameter(torch.randn(1) * cluster_size**-0.25)
        self.scale = cluster_size**-0.5

    def forward(self, padded, mask):
        a = self.score(padded).masked_fill(~mask[..., None], -torch.inf).softmax(dim=1)
        v = self.alpha * (a.mT @ padded).squeeze(1) + self.beta
        return functional.normalize(v, dim=1) * self.scale


class LoopedNetwork(nn.Module):
    """A network with a Python loop over the units."""

    def __init__(self, n_features, cluster_size, n_outputs):
        super().__init__()
        self.units = nn.ModuleList(
            AttentionUnit(n_features, cluster_size) for _ in range(cluster_size)
        )
        self.dropout = nn.Dropout(DROPOUT)
        self.linear = nn.Linear(cluster_size * n_features, n_outputs)

    def forward(self, padded, mask):
        g = torch.cat([unit(padded, mask) for unit in self.units], dim=1)
        return self.linear(self.dropout(g))


class PaddedNetwork(nn.Module):
    """A network that computes all units at once, by matrix products of padded batches."""

    def __init__(self, n_features, cluster_size, n_outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_features, cluster_size) * n_features**-0.5)
        self.alpha = nn.Parameter(torch.randn(cluster_size, 1) * cluster_size**-0.25)
        self.beta = nn.Parameter(torch.randn(cluster_size, 1) * cluster_size**-0.25)
        self.dropout = nn.Dropout(DROPOUT)
        self.linear = nn.Linear(cluster_size * n_features, n_outputs)

    def forward(self, padded, mask=None):
        logits = padded @ self.weight
        if mask is not None:
            logits = logits.masked_fill(~mask[..., None], -torch.inf)
        shifted = torch.addcmul(self.beta, self.alpha, logits.softmax(dim=1).mT @ padded)
        v = functional.normalize(shifted, dim=2) * len(self.alpha) ** -0.5
        return self.linear(self.dropout(v.flatten(1)))


def network_of(kind, task):
    """Return a network of a class for a task."""
    return kind(task.n_features, task.cluster_size, task.n_outputs)


def pad(sets):
    """Return the sets padded to the longest, and a mask of the local features."""
    lengths = torch.tensor([len(features) for features in sets])
    padded = nn.utils.rnn.pad_sequence(sets, batch_first=True)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


class PerSample(Dataset):
    """Dataset that returns one item at a time."""

    def __init__(self, sets, target):
        self.sets, self.target = sets, target

    def __len__(self):
        return len(self.sets)

    def __getitem__(self, i):
        return self.sets[i], self.target[i]


class Authors(Peer):
    """The authors' approach: a loop over units, padded sets, a per-sample loader."""

    def _loader(self, shuffle):
        return DataLoader(
            PerSample(self.sets, self.target),
            self.task.batch_size,
            shuffle=shuffle,
            collate_fn=self._collate,
        )

    @staticmethod
    def _collate(items):
        sets, targets = zip(*items, strict=True)
        return *pad(sets), torch.stack(targets)

    def fit(self):
        device = self.task.device
        self.network = network_of(LoopedNetwork, self.task).to(device).train()
        optimizer = torch.optim.RMSprop(self.network.parameters(), lr=LEARNING_RATE)
        for _ in range(self.task.epochs):
            for padded, mask, target in self._loader(shuffle=True):
                optimizer.zero_grad()
                logits = self.network(padded.to(device), mask.to(device))
                self.loss(logits, target.to(device)).backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRAD_NORM)
                optimizer.step()

    @torch.inference_mode()
    def predict(self):
        self.network.eval()
        device = self.task.device
        return torch.cat(
            [
                self.probabilities(self.network(padded.to(device), mask.to(device)))
                for padded, mask, _ in self._loader(shuffle=False)
            ]
        )


class Padded(Peer):
    """A skilled user's code: no loader, and no mask if all sets have the same size."""

    def __init__(self, task):
        super().__init__(task)
        self.target = self.target.to(task.device)
        self.stacked = torch.stack(self.sets).to(task.device) if task.has_equal_lengths else None

    def fit(self):
        self.network = network_of(PaddedNetwork, self.task).to(self.task.device).train()
        optimizer = torch.optim.RMSprop(self.network.parameters(), lr=LEARNING_RATE, foreach=True)
        for _ in range(self.task.epochs):
            for items in torch.randperm(len(self.task)).split(self.task.batch_size):
                optimizer.zero_grad()
                logits = self.network(*self._inputs(items))
                self.loss(logits, self.target[items]).backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRAD_NORM, foreach=True)
                optimizer.step()

    def _inputs(self, items):
        """Return the inputs of the network for items given by a tensor or a slice."""
        if self.stacked is not None:
            return (self.stacked[items],)
        sets = (
            self.sets[items] if isinstance(items, slice) else [self.sets[i] for i in items.tolist()]
        )
        return [part.to(self.task.device) for part in pad(sets)]

    @torch.inference_mode()
    def predict(self):
        self.network.eval()
        size = self.task.batch_size
        return torch.cat(
            [
                self.probabilities(self.network(*self._inputs(slice(start, start + size))))
                for start in range(0, len(self.task), size)
            ]
        )


class WholeBatches(Dataset):
    """Dataset that returns one batch at a time, through `__getitems__` of torch's loader."""

    def __init__(self, inputs, target):
        self.inputs, self.target = inputs, target

    def __len__(self):
        return len(self.target)

    def __getitems__(self, items):
        items = torch.tensor(items)
        return _named(self.inputs(items)), self.target[items]


def _named(inputs):
    return dict(zip(("padded", "mask"), inputs, strict=False))


def _as_it_is(batch):
    return batch


class SkorchBatches(Padded):
    """The padded network in skorch, with whole batches."""

    package = "skorch"

    def __init__(self, task):
        super().__init__(task)
        target = self.target.float() if task.n_outputs == 1 else self.target
        self.dataset, self.collate = self._prepare(target)

    def _prepare(self, target):
        return WholeBatches(self._inputs, target), _as_it_is

    def fit(self):
        import skorch

        kind, criterion = (
            (skorch.NeuralNetBinaryClassifier, nn.BCEWithLogitsLoss)
            if self.task.n_outputs == 1
            else (skorch.NeuralNetClassifier, nn.CrossEntropyLoss)
        )
        self.net = kind(
            PaddedNetwork,
            module__n_features=self.task.n_features,
            module__cluster_size=self.task.cluster_size,
            module__n_outputs=self.task.n_outputs,
            criterion=criterion,
            optimizer=torch.optim.RMSprop,
            optimizer__foreach=True,
            lr=LEARNING_RATE,
            max_epochs=self.task.epochs,
            batch_size=self.task.batch_size,
            iterator_train__shuffle=True,
            iterator_train__collate_fn=self.collate,
            iterator_valid__collate_fn=self.collate,
            train_split=None,
            callbacks=[skorch.callbacks.GradientNormClipping(MAX_GRAD_NORM)],
            callbacks__valid_acc=None,
            callbacks__print_log=None,
            verbose=0,
            device=self.task.device,
        ).fit(self.dataset, y=None)

    def predict(self):
        return torch.from_numpy(self.net.predict_proba(self.dataset))


class SkorchSets(SkorchBatches):
    """The padded network in skorch, with sets collated one by one."""

    def _prepare(self, target):
        return PerSample(self.sets, target.cpu()), self._collate

    def _collate(self, items):
        sets, targets = zip(*items, strict=True)
        inputs = (torch.stack(sets),) if self.task.has_equal_lengths else pad(sets)
        return _named(inputs), torch.stack(targets)


class Bags(Dataset):
    """Dataset in the form of torchmil's collate function."""

    def __init__(self, sets, target):
        self.sets, self.target = sets, target

    def __len__(self):
        return len(self.sets)

    def __getitem__(self, i):
        return {"X": self.sets[i], "Y": self.target[i]}


class TorchmilLoop(Peer):
    """torchmil's ABMIL and its collate function, in a plain loop.

    The network is one attention unit with a hidden layer (equation 5), without shifting and
    dropout. The library has binary models only, so the linear layer is replaced for more classes.
    """

    package = "torchmil"

    def _loader(self, shuffle, n_bags=None):
        from torchmil.data import collate_fn

        bags = Bags(self.sets[:n_bags], self.target)
        return DataLoader(bags, self.task.batch_size, shuffle=shuffle, collate_fn=collate_fn)

    def _make_network(self):
        from torchmil.models import ABMIL

        shape = (self.task.n_features,)
        self.network = ABMIL(in_shape=shape, att_dim=ABMIL_ATTENTION_SIZE).to(self.task.device)
        if self.task.n_outputs > 1:
            self.network.classifier = nn.Linear(
                self.task.n_features, self.task.n_outputs, device=self.task.device
            )
        return torch.optim.RMSprop(self.network.parameters(), lr=LEARNING_RATE, foreach=True)

    def fit(self):
        optimizer = self._make_network()
        for _ in range(self.task.epochs):
            for batch in self._loader(shuffle=True):
                batch = batch.to(self.task.device)
                optimizer.zero_grad()
                self.loss(self.network(batch["X"], batch["mask"]), batch["Y"]).backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRAD_NORM, foreach=True)
                optimizer.step()

    @torch.inference_mode()
    def predict(self):
        self.network.eval()
        batches = (batch.to(self.task.device) for batch in self._loader(shuffle=False))
        logits = [
            self.network.predict(batch["X"], batch["mask"], return_inst_pred=False)
            for batch in batches
        ]
        return self.probabilities(torch.cat(logits))


class TorchmilTrainer(TorchmilLoop):
    """torchmil's ABMIL and its Trainer, which does not clip gradients."""

    @classmethod
    def obstacle(cls, task):
        if task.n_outputs > 1:
            return "torchmil's Trainer and ABMIL's loss take two classes only"
        return super().obstacle(task)

    def fit(self):
        from torchmil.utils import Trainer

        optimizer = self._make_network()
        trainer = Trainer(
            self.network, optimizer, device=self.task.device, disable_pbar=True, verbose=False
        )
        # The trainer validates after every epoch, by default on all training sets.
        one_bag = self._loader(shuffle=False, n_bags=1)
        trainer.train(self.task.epochs, self._loader(shuffle=True), val_dataloader=one_bag)


PEERS = {
    # The name before a slash is a library; the fastest of its settings counts.
    "authors": Authors,
    "padded": Padded,
    "skorch/batches": SkorchBatches,
    "skorch/sets": SkorchSets,
    "torchmil/loop": TorchmilLoop,
    "torchmil/trainer": TorchmilTrainer,
}
