"""The result of a SynBench run, with all settings that a comparison needs."""

import dataclasses
import json
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class SynBenchResult:
    """Scores of one representation; NumPy arrays, float64.

    With e radii, t thresholds and s scales.
    """

    score: np.ndarray  # [e, t], from 0 (nothing is kept) to about 1
    standard_error: np.ndarray  # [e, t], of the test noise; NaN of too few test inputs
    ceiling: np.ndarray  # [t], of perfect Gaussian features of such ranks at epsilon 0
    accuracy: np.ndarray  # [e, s]
    bound: np.ndarray  # [e, s], mean scaled bound; NaN where nothing is correct
    raw_accuracy: np.ndarray  # [e, s], of the best rules on the inputs themselves
    raw_bound: np.ndarray  # [e, s]
    half_score: np.ndarray  # [e, t], with half of the training; NaN of one epsilon
    rank: np.ndarray  # [s], of the covariance: features less linear dependent ones
    dropped_mean_fraction: np.ndarray  # [s], of the mean, in directions without noise
    multiplier: np.ndarray  # [e, s]
    shrinkage: np.ndarray  # [s]
    sums: np.ndarray  # [s, e, g, 4], see `ScaleResult`
    thresholds: tuple[float, ...]
    num_features: int
    task: dict[str, Any]  # settings and key, as JSON values
    notes: tuple[str, ...]  # what a reader has to know, one sentence each

    @property
    def score_to_ceiling(self) -> np.ndarray:
        """`[e, t]` score / ceiling, by which widths can be compared."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.ceiling > 0, self.score / self.ceiling, np.nan)

    @property
    def best_epsilon(self) -> np.ndarray:
        """`[2, t]` radius of the highest score, with all and with half of the training.

        Where the two differ the choice is one of regularisation, not of robustness. In
        units of the half distance of the class means of the features.
        """
        radii = np.asarray(self.task["relative_epsilons"], float)
        return radii[
            np.stack([s.argmax(axis=0) for s in (self.score, self.half_score)])
        ]

    def to_json(self) -> str:
        """The result as JSON text, from which `from_json` makes it again."""
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        return json.dumps(fields, default=lambda array: array.tolist())

    @classmethod
    def from_json(cls, text: str) -> "SynBenchResult":
        """The result that `to_json` wrote.

        Raises:
            ValueError: if fields are missing or unknown.
        """
        values = json.loads(text)
        types = {field.name: field.type for field in dataclasses.fields(cls)}
        if set(values) != set(types):
            differing = sorted(set(values) ^ set(types))
            raise ValueError(f"Not a SynBenchResult: {', '.join(differing)} differ.")
        for name, kind in types.items():
            if kind is np.ndarray:
                values[name] = np.array(values[name], float)
            elif kind not in (int, dict[str, Any]):
                values[name] = tuple(values[name])
        return cls(**values)
