"""Linear probes, adversarial probes and attacks on what contrastive training made."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from robustjax_experiments.configs.contrastive import ContrastiveConfig
from robustjax_experiments.studies.contrastive_methods import (
    backbone_variables,
    classifier_variables,
)

from robustjax import attacks, data, models, probes

_EVALUATION = 0x6576  # keeps these keys apart from those of training
_TRAIN, _ATTACK = range(2)  # streams of the key of a seed
_APGD_LOSSES = ("cross_entropy", "dlr")
Variables = Mapping[str, Any]


class Cell(NamedTuple):
    """One number of the table."""

    probe: str  # of `configs.contrastive.PROBES`, or "knn"
    attack: str  # "clean", "fgsm", "pgd", "apgd"
    epsilon: float
    accuracy: float


class Task(NamedTuple):
    """Data on which probes are trained and attacked."""

    config: ContrastiveConfig
    module: nn.Module  # a classifier of robustjax.models, whose head is a probe
    train: data.Dataset
    test: data.Dataset


def evaluate(
    task: Task, encoder: Variables, *, seed: int
) -> tuple[list[Cell], dict[str, Variables]]:
    """Accuracies of one encoder; and the classifier of each probe.

    Args:
        task: data, classifier and settings.
        encoder: variables of `contrastive_methods.Projected`.
        seed: of the training of probes and of the starts of attacks.
    """
    key = jax.random.fold_in(jax.random.key(seed), _EVALUATION)
    variables = standard_probe(task, encoder)
    cells = [Cell("knn", "clean", 0.0, _knn_accuracy(task, variables))]
    classifiers: dict[str, Variables] = {"standard": variables}
    for probe in task.config.probes:
        if probe != "standard":
            classifiers[probe] = adversarial_probe(
                jax.random.fold_in(key, _TRAIN),
                task,
                variables,
                is_full=probe == "full",
            )
    for probe in task.config.probes:
        apply_fn = models.classifier(task.module, classifiers[probe])
        own = jax.random.fold_in(key, _ATTACK)
        for (attack, epsilon), accuracy in accuracies(own, task, apply_fn).items():
            cells.append(Cell(probe, attack, epsilon, accuracy))
    return cells, {probe: classifiers[probe] for probe in task.config.probes}


def standard_probe(task: Task, encoder: Variables) -> dict[str, Any]:
    """A classifier: the frozen encoder below a linear probe of standardised features.

    Logistic regression with a penalty, to its minimum.
    """
    num_classes, width = task.train.num_classes, _num_features(encoder)
    blank = jnp.zeros((width, num_classes)), jnp.zeros(num_classes)
    variables = classifier_variables(encoder, *blank)
    features = _features(task, variables, task.train.images)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-6 * scale.max(), scale, np.inf)  # constants: no weight
    fit = probes.linear_probe(
        (features - mean) / scale,
        task.train.labels,
        num_classes=num_classes,
        l2=task.config.probe_l2,
    )
    weight = np.asarray(fit.probe.weight) / scale[:, None]
    bias = np.asarray(fit.probe.bias) - mean @ weight
    return classifier_variables(encoder, jnp.asarray(weight), jnp.asarray(bias))


def adversarial_probe(
    key: jax.Array, task: Task, variables: Variables, *, is_full: bool
) -> Variables:
    """Adversarial training of the last layer, or of all layers, from a standard probe.

    Args:
        key: of the order of images and of the attacks.
        task: data, classifier and settings.
        variables: of the classifier, a standard probe.
        is_full: also the encoder is trained.

    Reference: Madry et al. (2018); linear and full are the protocols ALF and AFF of
        adversarial contrastive learning.
    """
    config, (images, labels) = task.config, task.train[:2]
    statistics = dict(variables)
    params = dict(statistics.pop("params"))
    fixed = {} if is_full else {n: params.pop(n) for n in list(params) if n != "head"}
    size = min(config.batch_size, len(labels))
    steps_per_epoch = len(labels) // size
    recipe = _Recipe(
        task.module,
        config.probe_epochs * steps_per_epoch,
        config.probe_learning_rate,
        config.probe_attack_steps,
        is_full,
    )
    state = _ProbeState(params, statistics, recipe.optimizer.init(params))
    for epoch in range(config.probe_epochs):
        own = jax.random.fold_in(key, epoch)
        order = np.asarray(jax.random.permutation(own, len(labels)))
        for number in range(steps_per_epoch):
            batch = order[number * size : (number + 1) * size]
            state = _probe_step(
                jax.random.fold_in(own, number + 1),
                state,
                fixed,
                images[batch],
                labels[batch],
                epsilon=config.train_epsilon,
                recipe=recipe,
            )
    return {"params": {**fixed, **state.params}, **state.statistics}


def accuracies(
    key: jax.Array, task: Task, apply_fn: Callable[[jax.Array], jax.Array]
) -> dict[tuple[str, float], float]:
    """(attack, epsilon) -> share of test images that keep their label.

    APGD is the worst of both losses on each image. FGSM and APGD are run at the largest
    radius alone.
    """
    config, (images, labels) = task.config, task.test[:2]
    size = min(config.eval_batch_size, len(labels))
    radii = config.radii()
    largest = max(radii)
    hits: dict[tuple[str, float], int] = {}
    for first in range(0, len(labels), size):
        rows = np.arange(first, min(first + size, len(labels)))
        filled = np.resize(rows, size)  # one shape, one compilation
        own = jax.random.fold_in(key, first)
        x, y = images[filled], labels[filled]
        kept = {("clean", 0.0): _kept_clean(apply_fn, x, y)}
        kept["fgsm", largest] = _kept_fgsm(apply_fn, x, y, largest)
        for epsilon in radii:
            kept["pgd", epsilon] = _kept_pgd(
                own,
                apply_fn,
                x,
                y,
                epsilon,
                num_steps=config.pgd_steps,
                num_restarts=config.num_restarts,
            )
        for loss in _APGD_LOSSES if config.apgd_steps else ():
            survived = _kept_apgd(
                own, apply_fn, x, y, largest, loss=loss, num_steps=config.apgd_steps
            )
            kept["apgd", largest] = kept.get(("apgd", largest), True) & survived
        for name, value in kept.items():
            hits[name] = hits.get(name, 0) + int(np.sum(value[: len(rows)]))
    return {name: value / len(labels) for name, value in hits.items()}


@jax.jit
def _kept_clean(apply_fn: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
    logits = apply_fn(x)
    return jnp.isfinite(logits).all(axis=-1) & (logits.argmax(axis=-1) == labels)


def _kept_fgsm(
    apply_fn: Any, x: np.ndarray, labels: np.ndarray, epsilon: float
) -> jax.Array:
    return ~attacks.fgsm(apply_fn, x, labels, epsilon=epsilon).is_adversarial


def _kept_pgd(
    key: jax.Array,
    apply_fn: Any,
    x: np.ndarray,
    labels: np.ndarray,
    epsilon: float,
    *,
    num_steps: int,
    num_restarts: int,
) -> jax.Array:
    found = attacks.pgd(
        key,
        apply_fn,
        x,
        labels=labels,
        epsilon=epsilon,
        num_steps=num_steps,
        num_restarts=num_restarts,
        loss="cross_entropy",
    )
    return ~found.is_adversarial


def _kept_apgd(
    key: jax.Array,
    apply_fn: Any,
    x: np.ndarray,
    labels: np.ndarray,
    epsilon: float,
    *,
    loss: str,
    num_steps: int,
) -> jax.Array:
    found = attacks.apgd(
        key, apply_fn, x, labels=labels, epsilon=epsilon, num_steps=num_steps, loss=loss
    )
    return ~found.is_adversarial


class _Recipe(NamedTuple):
    """Adversarial training, static under jit: the same program for every seed."""

    module: nn.Module
    num_steps: int
    learning_rate: float
    num_attack_steps: int
    is_full: bool

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam with a cosine schedule."""
        return optax.adam(
            optax.cosine_decay_schedule(self.learning_rate, self.num_steps)
        )


class _ProbeState(NamedTuple):
    params: Any  # those that are trained
    statistics: Any  # {"batch_stats": ...} or {}
    opt_state: Any


def _probe_step(
    key: jax.Array,
    state: _ProbeState,
    fixed: Any,
    x: jax.Array,
    labels: jax.Array,
    *,
    epsilon: float,
    recipe: _Recipe,
) -> _ProbeState:
    """One step of adversarial training."""
    variables = {"params": {**fixed, **state.params}, **state.statistics}
    attacked = attacks.pgd(
        key,
        models.classifier(recipe.module, variables),
        x,
        labels=labels,
        epsilon=epsilon,
        num_steps=recipe.num_attack_steps,
        loss="cross_entropy",
    ).x
    return _updated(state, fixed, attacked, labels, recipe=recipe)


@functools.partial(jax.jit, static_argnames="recipe")
def _updated(
    state: _ProbeState,
    fixed: Any,
    attacked: jax.Array,
    labels: jax.Array,
    *,
    recipe: _Recipe,
) -> _ProbeState:
    module = recipe.module

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": {**fixed, **params}, **state.statistics}
        logits, updated = module.apply(
            variables, attacked, train=recipe.is_full, mutable=list(state.statistics)
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), dict(updated)

    grads, statistics = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state)
    return _ProbeState(
        optax.apply_updates(state.params, updates), statistics, opt_state
    )


def _knn_accuracy(task: Task, variables: Variables) -> float:
    """Accuracy of a vote of the nearest training features by cosine."""
    found = probes.nearest_neighbors(
        _features(task, variables, task.train.images),
        task.train.labels,
        _features(task, variables, task.test.images),
        num_classes=task.train.num_classes,
        metric="cosine",
        num_neighbors=min(task.config.num_neighbors, len(task.train.labels)),
    )
    return float(np.mean(np.asarray(found) == task.test.labels))


def _num_features(encoder: Variables) -> int:
    return backbone_variables(encoder)["params"]["head"]["kernel"].shape[0]


def _features(task: Task, variables: Variables, images: np.ndarray) -> np.ndarray:
    """`[n, p]`, in batches of one shape."""
    feature_fn = models.features_of(task.module, variables)
    size = min(task.config.eval_batch_size, len(images))
    parts = []
    for first in range(0, len(images), size):
        rows = np.arange(first, min(first + size, len(images)))
        found = _applied(feature_fn, images[np.resize(rows, size)])
        parts.append(np.asarray(found)[: len(rows)])
    return np.concatenate(parts)


@jax.jit
def _applied(fn: Any, x: jax.Array) -> jax.Array:
    return fn(x)
