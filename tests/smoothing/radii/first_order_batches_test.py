"""How many certificates are computed for those that are asked for."""

from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest

from robustjax import smoothing
from robustjax.smoothing.radii import first_order


class BatchesTest(absltest.TestCase):
    @pytest.mark.newest
    def test_certificates_cost_what_they_are_many(self):
        for size, expected in ((40, 64), (70, 128), (300, 320), (1000, 1024)):
            with mock.patch.object(first_order, "_host_batch") as batch:
                batch.side_effect = lambda p, *_, size, free_parallel: p
                p = np.linspace(0.6, 0.9, size)
                found = smoothing.first_order_radius(p, -0.1, 0.1)
            np.testing.assert_array_equal(found, p)  # each is in one batch, in order
            sizes = [call.kwargs["size"] for call in batch.call_args_list]
            self.assertEqual(sum(sizes), expected)


if __name__ == "__main__":
    absltest.main()
