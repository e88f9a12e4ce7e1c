"""Choose the learning rates of the rivals by cross-validation on the training parts.

The learning rate of the attention cluster was chosen in the same way, by `defaults.py`, whose
command-line options this script shares. A rival's default is the learning rate with the highest
mean accuracy over bags of digits, vowels, inertial sensor and skeleton. No test item is used.

    python studies/rival_learning_rates.py [--sets inertial] [--candidates "average, 0.01"]
        [--n-jobs 2]
"""

import defaults
import rivals

LEARNING_RATES = (0.001, 0.003, 0.01)
NETWORKS = [
    name
    for name, make in rivals.METHODS.items()
    if name != "attention cluster" and rivals.is_network(make(False, 0))
]
CANDIDATES = {
    f"{method}, {learning_rate}": {"method": method, "learning_rate": learning_rate}
    for method in NETWORKS
    for learning_rate in LEARNING_RATES
}


def rival(is_multimodal, seed, method, **parameters):
    """Return a rival with parameters that differ from its defaults."""
    return rivals.METHODS[method](is_multimodal, seed).set_params(**parameters)


STUDY = defaults.Study(CANDIDATES, rival, defaults.CSV.with_name("rival_steps.csv"))

if __name__ == "__main__":
    defaults.main(STUDY, __doc__)
