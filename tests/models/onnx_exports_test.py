"""Networks that PyTorch exported give the outputs that PyTorch computes."""

import pathlib
import tempfile

import jax
import numpy as np
import onnx_exports
import pytest
from absl.testing import absltest, parameterized

from robustjax import models

_TOLERANCE = 1e-5
_NUM_FROZEN = 102  # networks, half of them by each exporter


@jax.jit
def _outputs(networks):
    return [model(x) for model, x in networks]


class ExportsTest(parameterized.TestCase):
    def compare(self, exports):
        """Compares (name, content, input, output) in one compiled program; counts."""
        networks, expected = [], {}
        path = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory()), "net.onnx"
        )
        for name, content, x, y in exports:
            path.write_bytes(content)
            networks.append((models.load_onnx(path), x.astype(np.float32)))
            expected[name] = y
        found = _outputs(networks)
        for (name, y), value in zip(expected.items(), found, strict=True):
            self.assertEqual(value.shape, y.shape, name)
            np.testing.assert_allclose(value, y, rtol=0, atol=_TOLERANCE, err_msg=name)
        return len(networks)

    @parameterized.parameters(*onnx_exports.EXPORTERS)
    @pytest.mark.newest
    def test_frozen_networks(self, exporter):
        exports = [e for e in onnx_exports.frozen() if e[0].endswith(exporter)]
        self.assertEqual(self.compare(exports), _NUM_FROZEN // 2)

    def test_frozen_outputs_tell_inputs_apart(self):
        values = [y for *_, y in onnx_exports.frozen() if y.size > 1]
        self.assertGreater(min(np.ptp(y) for y in values), 1e-2)

    @parameterized.parameters(*onnx_exports.EXPORTERS)
    @pytest.mark.slow
    def test_exports_of_the_installed_version(self, exporter):
        pytest.importorskip("torch")
        pytest.importorskip("onnxscript")
        found = onnx_exports.modules()
        exports = (
            (name, *onnx_exports.export(shape, module, exporter=exporter))
            for name, (shape, module) in found.items()
        )
        self.assertEqual(self.compare(exports), _NUM_FROZEN // 2)


if __name__ == "__main__":
    absltest.main()
