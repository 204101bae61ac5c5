"""Settings of contrastive.py, and the methods that it compares."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from robustjax_experiments.configs import fields
from robustjax_experiments.configs.fields import RunConfig, setting

from robustjax import _validate, models
from robustjax.contrastive import losses

PROBES = ("standard", "adversarial", "full")
_FORMS = ("none", *losses.FORMS)
_WEIGHTS = ("uniform", "loss_ratio")
_SCHEDULES = ("constant", "cosine")


class Method(NamedTuple):
    """Parts of the integrated loss that a method uses."""

    title: str
    estimator: str = "g0"  # of the mass of negatives: g0, g1 (debiased), g2 (and hard)
    has_neighbours: bool = False  # several, or mixed ones
    is_adversarial: bool = False


METHODS = {
    "simclr": Method("SimCLR"),
    "debiased": Method("Debiased", "g1"),
    "hard": Method("Debiased + hard", "g2"),
    "nacl": Method("NaCl", "g2", has_neighbours=True),
    "adv": Method("Adv", is_adversarial=True),
    "intcl": Method("IntCL", "g2", is_adversarial=True),
    "intnacl": Method("IntNaCl", "g2", has_neighbours=True, is_adversarial=True),
}
AUGMENTATIONS = ("shift", "crop", "simclr")


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig(RunConfig):
    """Settings of a run; raises an error that names a bad value."""

    dataset: str = setting("digits", "name of the data set, see robustjax.data.load")
    data_dir: str = setting("", "data folder; default: ROBUSTJAX_DATA_DIR")
    max_images: int = setting(0, "maximum number of training images (0 = all)")
    max_examples: int = setting(0, "maximum number of test images (0 = all)")
    transfer: str = setting(
        "", "another data set on which probes are trained and attacked"
    )

    methods: tuple[str, ...] = setting(
        tuple(METHODS), f"methods, of: {', '.join(METHODS)}"
    )
    num_seeds: int = setting(1, "number of seeds, trained simultaneously by vmap")
    seed: int = setting(0, "first seed")
    model: str = setting("cnn", f"one of {', '.join(models.names())}")
    width: int = setting(
        0, "width of features of mlp and cnn, or of a ResNet (0 = default)"
    )
    channels: tuple[str, ...] = setting(
        (), "channels of the convolutions of cnn, for example 16,32"
    )
    hidden: int = setting(64, "width of the hidden layer of the projection head")
    projection: int = setting(32, "width of the embeddings")
    dtype: str = setting("float32", "compute dtype: float32 or bfloat16")
    augment: str = setting(
        "shift", f"augmentation of views: {', '.join(AUGMENTATIONS)}"
    )

    temperature: float = setting(0.5, "temperature of the similarities, > 0")
    tau_plus: float = setting(0.1, "probability that a negative is in fact a positive")
    beta: float = setting(1.0, "weight exponent of hard negatives, >= 0")
    num_positives: int = setting(
        3, "number of positives of nacl and intnacl; 1 needs --form"
    )
    form: str = setting("none", f"loss of mixed positives: {', '.join(_FORMS)}")
    mixing: float = setting(0.9, "share of the positive in mixed inputs")
    adversarial_weight: float = setting(1.0, "weight of the adversarial term")
    weights: str = setting("uniform", f"weights of its anchors: {', '.join(_WEIGHTS)}")
    train_epsilon: float = setting(0.1, "linf radius of adversarial views and probes")
    attack_steps: int = setting(1, "gradient steps of adversarial views")
    block_size: int = setting(0, "negatives per block of the loss (0 = all at once)")
    chunk_size: int = setting(0, "images per chunk of the encoder (0 = all at once)")

    epochs: int = setting(30, "number of passes over the images")
    compute_matched: bool = setting(
        False, "equal numbers of encoder passes: fewer epochs for costly methods"
    )
    batch_size: int = setting(256, "images per step")
    learning_rate: float = setting(2e-3, "learning rate of AdamW")
    schedule: str = setting(
        "constant", "schedule of the learning rate: constant or cosine"
    )
    weight_decay: float = setting(0.0, "weight decay of AdamW")
    save_every: int = setting(10, "epochs between two saved training states")

    probes: tuple[str, ...] = setting(
        ("standard", "adversarial"), f"probes, of: {', '.join(PROBES)}"
    )
    probe_l2: float = setting(1e-3, "l2 penalty of the standard probe")
    probe_epochs: int = setting(30, "epochs of the adversarial and full probes")
    probe_learning_rate: float = setting(
        3e-3, "initial learning rate of the adversarial and full probes"
    )
    probe_attack_steps: int = setting(
        3, "PGD steps in training the adversarial and full probes"
    )
    num_neighbors: int = setting(20, "number of neighbours that vote in kNN")

    epsilons: tuple[str, ...] = setting(
        ("0.05", "0.1"), "linf radii of PGD; FGSM and APGD use the largest"
    )
    pgd_steps: int = setting(20, "gradient steps of PGD")
    num_restarts: int = setting(1, "random restarts of PGD")
    apgd_steps: int = setting(
        100, "APGD steps for each of its two losses (0 = no APGD)"
    )
    eval_batch_size: int = setting(500, "images per batch in evaluation")
    compile_cache: str = setting("", "folder of the cache of compiled programs")
    allow_version_change: bool = setting(
        False, "resume a run of other software or hardware; results may differ"
    )

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        self.check_workdir()
        for known, flag in ((METHODS, "methods"), (PROBES, "probes")):
            names = getattr(self, flag)
            if not names or len(set(names)) < len(names):
                raise ValueError(
                    f"Expected --{flag} as names of {', '.join(known)}, each once."
                )
            for name in names:
                _validate.one_of(known, **{flag: name})
        _validate.one_of(models.names(), model=self.model)
        _validate.one_of(("float32", "bfloat16"), dtype=self.dtype)
        _validate.one_of(AUGMENTATIONS, augment=self.augment)
        _validate.one_of(_FORMS, form=self.form)
        _validate.one_of(_WEIGHTS, weights=self.weights)
        _validate.one_of(_SCHEDULES, schedule=self.schedule)
        _validate.integer(
            0,
            max_images=self.max_images,
            max_examples=self.max_examples,
            width=self.width,
            block_size=self.block_size,
            chunk_size=self.chunk_size,
            apgd_steps=self.apgd_steps,
        )
        _validate.integer(
            1,
            num_seeds=self.num_seeds,
            projection=self.projection,
            num_positives=self.num_positives,
            attack_steps=self.attack_steps,
            epochs=self.epochs,
            save_every=self.save_every,
            pgd_steps=self.pgd_steps,
            probe_epochs=self.probe_epochs,
            num_restarts=self.num_restarts,
            probe_attack_steps=self.probe_attack_steps,
            num_neighbors=self.num_neighbors,
            eval_batch_size=self.eval_batch_size,
        )
        _validate.integer(2, batch_size=self.batch_size, hidden=self.hidden)
        _validate.seed(seed=self.seed)
        _validate.positive(
            temperature=self.temperature,
            learning_rate=self.learning_rate,
            probe_learning_rate=self.probe_learning_rate,
            probe_l2=self.probe_l2,
        )
        _validate.at_least(
            0,
            beta=self.beta,
            adversarial_weight=self.adversarial_weight,
            train_epsilon=self.train_epsilon,
            weight_decay=self.weight_decay,
        )
        _validate.half_open(0, 1, tau_plus=self.tau_plus)
        _validate.unit_interval(mixing=self.mixing)
        if not self.epsilons:
            raise ValueError("Expected --epsilons with at least one radius, got none.")
        _validate.positive(epsilons=np.array(self.radii()))
        if self.channels and self.model != "cnn":
            raise ValueError(f"Expected no --channels for model {self.model!r}.")
        for channels in fields.integers("channels", self.channels):
            _validate.integer(1, channels=channels)

    def radii(self) -> tuple[float, ...]:
        """Radii of the attacks."""
        return fields.numbers("epsilons", self.epsilons)

    def seeds(self) -> list[int]:
        """Seeds, consecutive from the first."""
        return [self.seed + i for i in range(self.num_seeds)]

    def model_options(self) -> dict[str, Any]:
        """Options of the architecture, for `robustjax.models.create`."""
        options: dict[str, Any] = {"dtype": self.dtype}
        if self.width and self.model == "mlp":
            options["features"] = (256, self.width)
        elif self.width:
            options["hidden" if self.model == "cnn" else "width"] = self.width
        if self.channels:
            options["features"] = fields.integers("channels", self.channels)
        return options
