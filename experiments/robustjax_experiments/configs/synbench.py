"""Settings of synbench.py."""

import dataclasses
import pathlib
from typing import Any

from robustjax_experiments.configs import fields
from robustjax_experiments.configs.fields import RunConfig, setting

from robustjax import _validate, models, synbench
from robustjax.synbench import score
from robustjax.synbench.task import RawCurves


@dataclasses.dataclass(frozen=True)
class SynBenchConfig(RunConfig):
    """Settings of a run; raises an error that names a bad value."""

    train: tuple[str, ...] = setting(
        (), "numbers of epochs, one encoder is trained for each (0 = untrained)"
    )
    dataset: str = setting("digits", "training data set, see robustjax.data.load")
    data_dir: str = setting("", "data folder; default: ROBUSTJAX_DATA_DIR")
    max_images: int = setting(0, "maximum number of training images (0 = all)")
    model: str = setting("cnn", f"architecture to train: {', '.join(models.names())}")
    hidden: int = setting(
        64, "width of the features of mlp and cnn; ignored by other models"
    )
    sigma: float = setting(0.0, "standard deviation of the noise in training")
    checkpoint: tuple[str, ...] = setting(
        (), "folders written by train.py, or vision transformers (.npz, .safetensors)"
    )
    layout: str = setting(
        "auto", "layout of files of vision transformers, see robustjax.models.load_vit"
    )
    resolution: int = setting(
        0, "resolution of vision transformers (0 = that of the file)"
    )
    feature_fn: tuple[str, ...] = setting(
        (), "package.module:factory; factory() returns a function to features"
    )
    on_host: bool = setting(
        False, "functions of --feature_fn take and return NumPy arrays"
    )
    input_shape: tuple[str, ...] = setting(
        (), "input shape of --feature_fn, for example 224,224,3"
    )
    pixels: bool = setting(False, "score the input pixels as well")

    scales: tuple[str, ...] = setting(
        (), "half the distances of the class means; default: .1,...,4.9"
    )
    relative_epsilons: tuple[str, ...] = setting(
        ("0",), "relative epsilons of the robust rules, in [0, 1)"
    )
    thresholds: tuple[str, ...] = setting(
        (), "accuracies, > max(prior, 1 - prior); default: .6,.65,...,.95,.99"
    )
    num_train: str = setting(
        "2048", "training inputs per scale, or auto: 20 per feature"
    )
    num_test: int = setting(2048, "test inputs per scale")
    batch_size: int = setting(256, "inputs per batch, a multiple of 16 per device")
    devices: int = setting(
        0, "number of devices that share a batch (0 = all of this machine)"
    )
    prior: float = setting(0.5, "prior P(y = 1), in (0, 1)")
    pixel_mean: tuple[str, ...] = setting(
        (), "mean of pixels: one number, or one per channel"
    )
    pixel_std: tuple[str, ...] = setting(
        (), "standard deviation of pixels: one number, or one per channel"
    )
    shrinkage: str = setting(
        "0", "shrinkage of the covariance: a number in [0, 1], or oas"
    )
    stratified: bool = setting(
        False, "draw exactly the expected number of inputs of each class"
    )
    reference: bool = setting(False, "use the conventions of the public script")

    probe: bool = setting(
        True, "train a linear probe on the features of encoders trained here"
    )
    seed: int = setting(12, "seed of the inputs and of encoders trained here")
    compile_cache: str = setting("", "folder of the cache of compiled programs")
    allow_version_change: bool = setting(
        False, "resume a run of other software or hardware; results may differ"
    )

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        self.check_workdir()
        _validate.seed(seed=self.seed)
        _validate.integer(
            0,
            max_images=self.max_images,
            resolution=self.resolution,
            devices=self.devices,
        )
        _validate.integer(16, batch_size=self.batch_size)
        _validate.at_least(0, sigma=self.sigma)
        self._check_encoders()
        task = self.task((1, 1, 1), num_features=1)
        score.area_of_inputs(RawCurves(task), task, thresholds=self.running_thresholds)

    @property
    def running_thresholds(self) -> tuple[float, ...]:
        """Accuracies from which areas are taken."""
        return self._numbers("thresholds") or synbench.THRESHOLDS

    def task(self, input_shape: tuple[int, ...], *, num_features: int) -> synbench.Task:
        """Task of an encoder: its inputs and rules."""
        is_vit = bool(self.checkpoint)  # which normalise themselves
        normal: dict[str, Any] = (
            {}
            if is_vit
            else {
                name: numbers
                for name in ("pixel_mean", "pixel_std")
                if (numbers := self._numbers(name))
            }
        )
        shrinkage: Any = self.shrinkage
        if shrinkage != "oas":
            shrinkage = self._shrinkage()
        task = synbench.Task(
            input_shape,
            scales=self._numbers("scales") or synbench.SCALES,
            relative_epsilons=self._numbers("relative_epsilons"),
            num_train=self._num_train(num_features),
            num_test=self.num_test,
            prior=self.prior,
            is_stratified=self.stratified,
            shrinkage=shrinkage,
            **normal,
        )
        return task.reference() if self.reference else task

    def _shrinkage(self) -> float:
        try:
            return float(self.shrinkage)
        except ValueError:
            raise ValueError(
                "Expected --shrinkage as a number in [0, 1] or oas, got "
                f"{self.shrinkage!r}."
            ) from None

    def _num_train(self, num_features: int) -> int:
        if self.num_train == "auto":
            return max(2048, -(-20 * num_features // 256) * 256)
        if not self.num_train.isdigit():
            raise ValueError(
                f"Expected --num_train as an integer or auto, got {self.num_train!r}."
            )
        return int(self.num_train)

    def _numbers(self, name: str) -> tuple[float, ...]:
        return fields.numbers(name, getattr(self, name))

    def feature_shape(self) -> tuple[int, ...]:
        """Input shape of --feature_fn; empty if it is not given."""
        return fields.integers("input_shape", self.input_shape)

    def _check_encoders(self) -> None:
        """Raises ValueError unless encoders are asked for, each by one name."""
        names = self._encoder_names()
        if not names:
            raise ValueError(
                "Expected --train, --checkpoint, --feature_fn or --pixels, got none."
            )
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(
                f"Expected encoders of different names, got {twice[0]} twice."
            )
        for epochs in fields.integers("train", self.train):
            _validate.integer(0, train=epochs)
        for text in self.feature_fn:
            if ":" not in text:
                raise ValueError(
                    f"Expected --feature_fn=package.module:factory, got {text!r}."
                )
        if self.feature_fn and not self.feature_shape():
            raise ValueError(
                "Expected --input_shape with --feature_fn, e.g. 224,224,3."
            )

    def _encoder_names(self) -> list[str]:
        names = ["pixels"] if self.pixels else []
        names += [trained_name(n) for n in fields.integers("train", self.train)]
        names += [pathlib.Path(path).stem for path in self.checkpoint]
        return names + [text.replace(":", ".") for text in self.feature_fn]


def trained_name(epochs: int) -> str:
    """Name of an encoder that is trained for the run."""
    return f"epochs_{epochs}" if epochs else "untrained"
