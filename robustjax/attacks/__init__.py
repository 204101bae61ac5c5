"""Adversarial attacks on classifiers: what a certificate is compared with.

An attack that fails proves nothing; one that succeeds is a counterexample, since every
result is evaluated again at the very input that is returned.
"""

from robustjax.attacks.auto import apgd
from robustjax.attacks.distance import SmallestEpsilon, smallest_epsilon
from robustjax.attacks.gradient import AscentResult, ascend, fgsm, pgd
from robustjax.attacks.results import AttackResult, AttackSettings

__all__ = [
    "AscentResult",
    "AttackResult",
    "AttackSettings",
    "SmallestEpsilon",
    "apgd",
    "ascend",
    "fgsm",
    "pgd",
    "smallest_epsilon",
]
