"""
The step sizes of the rivals, by cross-validation on training parts
===================================================================

Rivals deserve what the attention cluster had, a step size chosen on training parts; the options
are those of `defaults.py`. A rival's default is the step of the highest mean accuracy over bags of
digits, vowels, inertial sensors and skeleton. No test item is seen.

    python examples/rival_steps.py [--sets inertial] [--candidates "average, 0.01"] [--n-jobs 2]
"""

import defaults
import rivals

STEPS = (0.001, 0.003, 0.01)
NETWORKS = [
    name
    for name, make in rivals.METHODS.items()
    if name != "attention cluster" and rivals.is_network(make(False, 0))
]
CANDIDATES = {
    f"{method}, {step}": {"method": method, "learning_rate": step}
    for method in NETWORKS
    for step in STEPS
}


def rival(is_multimodal, seed, method, **parameters):
    return rivals.METHODS[method](is_multimodal, seed).set_params(**parameters)


STUDY = defaults.Study(CANDIDATES, rival, defaults.CSV.with_name("rival_steps.csv"))

if __name__ == "__main__":
    defaults.main(STUDY, __doc__)
