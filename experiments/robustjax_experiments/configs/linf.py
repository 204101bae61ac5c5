"""Settings of verify_linf.py."""

import dataclasses

from robustjax_experiments.configs import fields
from robustjax_experiments.configs.fields import setting
from robustjax_experiments.configs.images import ImageRunConfig

from robustjax import _validate
from robustjax.bounds import methods


@dataclasses.dataclass(frozen=True)
class VerifyConfig(ImageRunConfig):
    """Settings of a verification run; raises an error that names a bad value."""

    limit: float = setting(0.5, "maximum radius to verify, in input units")
    num_halvings: int = setting(10, "number of bisection steps between 0 and limit")
    method: str = setting(
        "crown", f"method of the bounds: {', '.join(methods.METHODS)}"
    )
    num_steps: int = setting(20, "steps of Adam, for method=alpha")
    capacity: int = setting(
        0, "maximum number of relaxed rows of each hidden value (0 = all)"
    )
    chunk_size: int = setting(
        0, "rows per chunk of the backward pass (0 = all at once)"
    )
    attack_steps: int = setting(40, "gradient steps of each start of PGD")
    attack_restarts: int = setting(3, "random starts of PGD")
    batch_size: int = setting(50, "images per batch")
    seed: int = setting(0, "seed of the attack, and of a model trained here")
    epsilons: tuple[str, ...] = setting((), "radii of the table; default: a round grid")

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        super().__post_init__()
        _validate.integer(0, capacity=self.capacity, chunk_size=self.chunk_size)
        _validate.integer(
            1,
            num_halvings=self.num_halvings,
            num_steps=self.num_steps,
            attack_steps=self.attack_steps,
            attack_restarts=self.attack_restarts,
            batch_size=self.batch_size,
        )
        _validate.positive(limit=self.limit)
        _validate.one_of(methods.METHODS, method=self.method)
        self.table_epsilons()
        self.check_source()

    def table_epsilons(self) -> list[float]:
        """The radii asked for, as numbers."""
        return fields.non_negative("epsilons", self.epsilons)
