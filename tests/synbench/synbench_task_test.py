"""Settings of a task: what is taken for what, and what is refused by name."""

import dataclasses

import numpy as np
from absl.testing import absltest, parameterized

from robustjax.synbench.task import Task


class TaskTest(parameterized.TestCase):
    def test_numbers_stand_for_every_channel(self):
        numbers = {"center": 0.25, "pixel_mean": 0.5, "pixel_std": np.float64(2)}
        one = Task((2, 2, 3), **numbers)
        for wrap in (lambda v: (v,), lambda v: [v] * 3, lambda v: np.full(3, v)):
            other = Task((2, 2, 3), **{n: wrap(v) for n, v in numbers.items()})
            for name in numbers:
                np.testing.assert_array_equal(
                    getattr(one.inputs, name), getattr(other.inputs, name)
                )
        self.assertEqual(one, Task((2, 2, 3), **{n: [v] for n, v in numbers.items()}))
        self.assertEqual(hash(one), hash(dataclasses.replace(one)))

    @parameterized.parameters((), (0, 2))
    def test_refuses_shapes_without_numbers(self, *shape):
        with self.assertRaisesRegex(ValueError, "input_shape of sizes, got"):
            Task(shape)

    @parameterized.parameters(
        ({"relative_epsilons": (1.0,)}, r"relative_epsilons in \[0, 1\)"),
        ({"relative_epsilons": (0, 0.0)}, "relative_epsilons, each once"),
        ({"prior": 0.0}, "prior"),
        ({"scales": ()}, "scales, each once"),
        ({"scales": (1.0, 1.0)}, "scales, each once"),
        ({"scales": (-1.0,)}, "scales to be positive"),
        ({"num_train": 2}, "num_train"),
        ({"num_test": 0}, "num_test"),
        ({"shrinkage": 1.5}, r"shrinkage as a number in \[0, 1\] or \"oas\", got 1.5"),
        ({"shrinkage": "foo"}, r"shrinkage as a number .* or \"oas\", got 'foo'"),
        ({"shrinkage": None}, "shrinkage as a number .*, got None"),
        ({"shrinkage": np.nan}, "shrinkage as a number .*, got nan"),
        ({"center": (0.1, 0.2)}, "center as a number or of length 1 or 8"),
        ({"center": (np.inf,)}, "center to be finite"),
        ({"pixel_mean": np.zeros((1, 1))}, "pixel_mean as a number"),
        ({"pixel_std": 0.0}, "pixel_std to be positive"),
        ({"direction": np.ones(3)}, "direction of shape"),
        ({"direction": np.zeros(8)}, "direction of finite length"),
        ({"direction": np.full(8, np.nan)}, "direction of finite length"),
        ({"valid_range": (1.0, 0.0)}, "valid_range with low < high"),
    )
    def test_refuses(self, options, text):
        with self.assertRaisesRegex(ValueError, f"Expected {text}"):
            Task((8,), **options)


if __name__ == "__main__":
    absltest.main()
