"""Predictions by plurality and confusion matrices against plain counting."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from sklearn import metrics

from robustjax.hidden_cost.disparity import confusion


class ConfusionTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_rates_are_those_of_sklearn(self):
        rng = np.random.default_rng(0)
        labels, predictions = rng.integers(5, size=300), rng.integers(-1, 5, size=300)
        actual = confusion.smoothed_confusion(labels, predictions, num_classes=5)
        renamed = np.where(predictions < 0, 5, predictions)
        oracle = metrics.confusion_matrix(
            labels, renamed, labels=range(6), normalize="true"
        )
        np.testing.assert_allclose(actual, oracle[:5])

    def test_class_without_examples_has_a_row_of_nan(self):
        rates = confusion.smoothed_confusion([0, 2], [1, -1], num_classes=3)
        np.testing.assert_array_equal(rates, [[0, 1, 0, 0], [np.nan] * 4, [0, 0, 0, 1]])
        self.assertEqual(confusion.off_diagonal_norm(rates), 1)

    def test_norm_brackets_the_errors(self):
        rng = np.random.default_rng(0)
        for _ in range(50):
            rates = rng.dirichlet(np.full(8, 0.3), size=7)
            norm = confusion.off_diagonal_norm(rates)
            between = rates[:, :7] * (1 - np.eye(7))
            eigenvalue = np.linalg.eigvalsh(between @ between.T).max()
            np.testing.assert_allclose(norm, np.sqrt(eigenvalue))
            error = 1 - rates[:, -1] - np.diag(rates)
            self.assertLessEqual(np.sqrt(np.mean(error**2)), norm * (1 + 1e-12))
            self.assertLessEqual(error.max(), np.sqrt(7) * norm * (1 + 1e-12))

    @parameterized.parameters(
        ([[1, 0], [0, 1]],), ([1.0, 0.0],), ([[1, 0, 0, 0], [0, 1, 0, 0]],)
    )
    def test_norm_refuses_other_shapes(self, rates):
        with self.assertRaisesRegex(ValueError, "confusion as"):
            confusion.off_diagonal_norm(rates)


class PluralityTest(parameterized.TestCase):
    def test_ties_go_to_the_lowest_class_and_invalid_abstains(self):
        counts = np.array([[3, 3, 3], [0, 2, 2], [1, 2, 3], [0, 0, 1], [0, 9, 0]])
        actual = confusion.plurality(counts)
        self.assertEqual(actual.tolist(), [0, 1, -1, -1, 1])
        self.assertEqual(actual.dtype, np.int32)

    @parameterized.parameters(
        ([[1.0, 2.0, 3.0]], "float64"),
        ([1, 2, 3], r"shape \(3,\)"),
        ([[1, -2, 3]], "counts >= 0, got -2"),
        ([[1, 2, 3], [0, 0, 0]], "none in row 1"),
    )
    def test_refuses_bad_counts(self, counts, text):
        with self.assertRaisesRegex(ValueError, text):
            confusion.plurality(counts)


if __name__ == "__main__":
    absltest.main()
