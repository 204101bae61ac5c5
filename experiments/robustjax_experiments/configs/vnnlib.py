"""Settings of verify_vnnlib.py."""

import dataclasses

from robustjax_experiments.configs.fields import RunConfig, setting

from robustjax import _validate
from robustjax.bounds import methods


@dataclasses.dataclass(frozen=True)
class VnnlibConfig(RunConfig):
    """Settings of a run; raises an error that names a bad value."""

    instances: str = setting(
        "", "CSV file with the columns network, property and seconds"
    )
    onnx: str = setting("", "file of an ONNX network")
    vnnlib: str = setting("", "file of its VNN-LIB property")
    workdir: str = setting(
        "", "folder for results.csv; default: only print the answers"
    )
    method: str = setting(
        "alpha", f"method of the bounds: {', '.join(methods.METHODS)}"
    )
    num_steps: int = setting(50, "steps of Adam, for method=alpha")
    max_boxes: int = setting(20000, "maximum number of boxes in branch and bound")
    timeout: float = setting(
        0.0, "time limit per instance in seconds (0 = that of the list, or 60)"
    )
    attack_steps: int = setting(200, "gradient steps of each start of PGD")
    attack_restarts: int = setting(10, "random starts of PGD")
    seed: int = setting(0, "seed of the attack")
    allow_version_change: bool = setting(
        False, "resume a run of other software or hardware; results may differ"
    )

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        if bool(self.instances) == bool(self.onnx) or bool(self.onnx) != bool(
            self.vnnlib
        ):
            raise ValueError("Expected --instances, or both --onnx and --vnnlib.")
        _validate.one_of(methods.METHODS, method=self.method)
        _validate.integer(
            1,
            num_steps=self.num_steps,
            max_boxes=self.max_boxes,
            attack_steps=self.attack_steps,
            attack_restarts=self.attack_restarts,
        )
        _validate.at_least(0, timeout=self.timeout)
        _validate.seed(seed=self.seed)
