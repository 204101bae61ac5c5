"""Settings of train.py, and of models that other scripts train."""

import dataclasses
import math

from robustjax_experiments.configs.fields import RunConfig, setting

from robustjax import _validate, models

_OPTIMIZERS = ("adamw", "sgd")
_BOUNDS = ("ibp", "crown-ibp")
_AUGMENTATIONS = ("none", "crop", "crop_flip")


@dataclasses.dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Settings of a training run; raises an error that names a bad value."""

    dataset: str = setting("digits", "name of the data set, see robustjax.data.load")
    data_dir: str = setting("", "data folder; default: ROBUSTJAX_DATA_DIR")
    max_images: int = setting(0, "maximum number of training images (0 = all)")
    model: str = setting("cnn", f"one of {', '.join(models.names())}")
    hidden: int = setting(
        0, "width of the last hidden layer of mlp and cnn (0 = default)"
    )
    dtype: str = setting("float32", "compute dtype: float32 or bfloat16")
    sigma: float = setting(0.25, "standard deviation of the noise, in input units")
    epsilon: float = setting(
        0.0, "linf radius of a certified loss (0 = none); needs sigma=0"
    )
    bound: str = setting("ibp", f"bounds of the certified loss: {' or '.join(_BOUNDS)}")
    certified_weight: float = setting(0.5, "final weight of the certified loss")
    augment: str = setting("none", f"one of {', '.join(_AUGMENTATIONS)}")
    epochs: int = setting(100, "number of passes over the training images")
    batch_size: int = setting(128, "images per step")
    optimizer: str = setting("adamw", "adamw, or sgd with Nesterov momentum 0.9")
    learning_rate: float = setting(3e-3, "peak of the cosine schedule")
    warmup: float = setting(0.1, "share of all steps with rising learning rate")
    weight_decay: float = setting(1e-4, "weight decay of all parameters")
    seed: int = setting(0, "seed of initial parameters, image order and noise")
    save_every: int = setting(10, "epochs between two saved training states")

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        self.check_workdir()
        _validate.one_of(models.names(), model=self.model)
        _validate.one_of(("float32", "bfloat16"), dtype=self.dtype)
        _validate.one_of(_AUGMENTATIONS, augment=self.augment)
        _validate.one_of(_OPTIMIZERS, optimizer=self.optimizer)
        _validate.integer(
            1,
            epochs=self.epochs,
            batch_size=self.batch_size,
            save_every=self.save_every,
        )
        _validate.integer(0, max_images=self.max_images, hidden=self.hidden)
        if self.hidden and self.model not in ("mlp", "cnn"):
            raise ValueError(f"Expected hidden=0 for model {self.model!r}.")
        _validate.seed(seed=self.seed)
        _validate.positive(learning_rate=self.learning_rate)
        _validate.one_of(_BOUNDS, bound=self.bound)
        _validate.unit_interval(certified_weight=self.certified_weight)
        if self.epsilon and self.sigma:
            raise ValueError(
                f"Expected sigma=0 with a certified loss (epsilon={self.epsilon}), "
                f"got {self.sigma}."
            )
        for name in ("sigma", "weight_decay", "epsilon"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"Expected {name} >= 0 and finite, got {value}.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"Expected warmup in [0, 1), got {self.warmup}.")
