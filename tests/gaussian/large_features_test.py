"""Wide features and a vision transformer at full size: ceilings, memory, streams."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import gaussian

_GIBIBYTE = 2**30
_VIT_SCORE = """
import json, pathlib, sys

import jax
import jax.numpy as jnp
from robustjax import gaussian, models

config = models.vit_config("vit_b16")
module = models.VisionTransformer(config)
params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"]
num = int(sys.argv[1])
found = gaussian.synbench(
    jax.random.key(0), models.vit_features(config, params), (224, 224, 3),
    scales=(1.0, 3.0), thresholds=(0.6,), num_train=num, num_test=num, batch_size=16,
    shrinkage="oas",
)
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss is the parent's
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"peak": peak, "features": found.num_features,
                  "accuracy": found.accuracy.tolist()}))
"""


@pytest.mark.slow
class LargeFeaturesTest(parameterized.TestCase):
    def test_768_pixels_score_their_ceiling(self):
        with pytest.warns(UserWarning, match="perfect representation would score"):
            found = gaussian.synbench(jax.random.key(3), lambda x: x, (768,))
        gap = abs(found.score[0] - found.ceiling)
        np.testing.assert_array_less(gap, 3 * found.standard_error[0])
        np.testing.assert_allclose(
            found.ceiling[[0, 2, 4, 6, 7]], [0.850, 0.849, 0.836, 0.804, 0.766],
            atol=5e-4,
        )  # fmt: skip

    def test_memory_of_a_vision_transformer_does_not_grow_with_the_inputs(self):
        peaks = []
        for num in (16, 64):
            result = subprocess.run(
                [sys.executable, "-c", _VIT_SCORE, str(num)],
                capture_output=True, text=True, timeout=600, check=False,
            )  # fmt: skip
            self.assertEqual(result.returncode, 0, result.stderr)
            found = json.loads(result.stdout)
            self.assertEqual(found["features"], 768)
            self.assertTrue(np.all(np.isfinite(found["accuracy"])))
            peaks.append(found["peak"])
        self.assertLess(max(peaks), 4 * _GIBIBYTE)
        self.assertLess(peaks[1], 1.05 * peaks[0])


if __name__ == "__main__":
    absltest.main()
