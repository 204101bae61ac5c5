"""Settings of a run over the images of a data set, with a classifier."""

import dataclasses
import pathlib
import typing
from typing import Any

from robustjax_experiments.configs.fields import RunConfig, setting
from robustjax_experiments.configs.training import TrainConfig

from robustjax import _validate, models

MODEL_FOLDER = "model"  # in the run folder, of a model trained for the run


@dataclasses.dataclass(frozen=True)
class ImageRunConfig(RunConfig):
    """Images, classifier and folder of a run; raises errors that name bad values."""

    dataset: str = setting("digits", "name of the data set, see robustjax.data.load")
    data_dir: str = setting("", "data folder; default: ROBUSTJAX_DATA_DIR")
    split: str = setting("test", "split of the data set: train or test")
    start: int = setting(0, "index of the first image")
    skip: int = setting(1, "stride: use every skip-th image")
    max_examples: int = setting(0, "maximum number of images (0 = all)")

    model: str = setting(
        "", "architecture of the model to train; checked for a given model"
    )
    checkpoint: str = setting(
        "", "trained model: a folder written by train.py, or a safetensors file"
    )
    apply_fn: str = setting(
        "", "package.module:factory; factory() returns a classifier"
    )
    onnx: str = setting("", "file of an ONNX network")
    dtype: str = setting("", "compute dtype: float32 or bfloat16; default: the model's")
    train: tuple[str, ...] = setting(
        (), "settings of train.py, to train a model in the run folder: epochs=60,..."
    )
    seed: int = setting(0, "seed of a model trained here")
    compile_cache: str = setting("", "folder of the cache of compiled programs")
    allow_version_change: bool = setting(
        False, "resume a run of other software or hardware; results may differ"
    )

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        self.check_workdir()
        _validate.integer(0, start=self.start, max_examples=self.max_examples)
        _validate.integer(1, skip=self.skip)
        _validate.one_of(("", "float32", "bfloat16"), dtype=self.dtype)
        _validate.seed(seed=self.seed)

    def check_source(self) -> None:
        """Raises ValueError unless exactly one source of a classifier is given."""
        sources = {
            "--checkpoint": bool(self.checkpoint),
            "--apply_fn": bool(self.apply_fn),
            "--onnx": bool(self.onnx),
            "--train": bool(self.train),
        }
        given = [name for name, is_given in sources.items() if is_given]
        if len(given) != 1:
            names = ", ".join(sources)
            raise ValueError(
                f"Expected one of {names}, got {', '.join(given) or 'none'}."
            )
        if self.onnx and self.dtype:
            raise ValueError("Expected no --dtype with --onnx: the file fixes it.")
        if self.apply_fn and (":" not in self.apply_fn or self.dtype):
            raise ValueError(
                "Expected --apply_fn=package.module:factory without --dtype, got "
                f"{self.apply_fn!r} and {self.dtype!r}."
            )
        if self.model:
            models.create(self.model, num_classes=2)
        if self.train:
            self.training(sigma=self.training_sigma or 0.0, folder=self.workdir)

    @property
    def training_sigma(self) -> float | None:
        """Noise level of a model trained for the run; None where any will do."""
        return 0.0

    def training(self, *, sigma: float, folder: str) -> TrainConfig:
        """Settings of training: those of the run where they apply, then --train.

        Args:
            sigma: noise level.
            folder: the model is trained in its folder `MODEL_FOLDER`.

        Raises:
            ValueError: if a setting is unknown or its value not of its type.
        """
        types = typing.get_type_hints(TrainConfig)
        own: dict[str, Any] = {
            "workdir": str(pathlib.Path(folder, MODEL_FOLDER)),
            "dataset": self.dataset,
            "data_dir": self.data_dir,
            "model": self.model or "cnn",
            "sigma": sigma,
            "seed": self.seed,
        }
        for item in self.train:
            name, _, text = item.partition("=")
            _validate.one_of(
                sorted(types.keys() - {"workdir"}), **{"--train setting": name}
            )
            try:
                own[name] = types[name](text)
            except ValueError:
                kind = types[name].__name__
                raise ValueError(
                    f"Expected --train={name} as {kind}, got {text!r}."
                ) from None
        return TrainConfig(**own)
