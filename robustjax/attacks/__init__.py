"""Adversarial attacks on classifiers: what a certificate is compared with.

An attack that fails proves nothing; one that succeeds is a counterexample, since every
result is evaluated again at the very input that is returned.
"""

from robustjax.attacks.attack_result import AttackResult, AttackSettings
from robustjax.attacks.auto_pgd import apgd
from robustjax.attacks.gradient import AscentResult, ascend, fgsm, pgd
from robustjax.attacks.minimal_norm import SmallestEpsilon, smallest_epsilon

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
