"""Class counts against a plain loop, and the independence of the noise."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import smoothing
from robustjax.smoothing.sampling import streams, vote_counts

_SHAPE, _CLASSES = (5, 4, 2), 6
_KEY = jax.random.key(11)
_WEIGHT = jax.random.normal(jax.random.key(5), (40, _CLASSES), "float32")
_X = jax.random.uniform(jax.random.key(6), (3, *_SHAPE), "float32")


def _linear(weight: jax.Array, x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1) @ weight


_APPLY = jax.tree_util.Partial(_linear, _WEIGHT)


def _counts(x=_X, apply_fn=_APPLY, *, key=_KEY, num_samples=300, **options):
    counts = smoothing.class_counts(
        key,
        apply_fn,
        x,
        sigma=0.5,
        num_samples=num_samples,
        num_classes=_CLASSES,
        **options,
    )
    return np.asarray(counts)


def _mesh(num_devices: int) -> jax.sharding.Mesh:
    return jax.make_mesh(
        (num_devices,),
        ("samples",),
        devices=jax.devices()[:num_devices],
        axis_types=(jax.sharding.AxisType.Auto,),
    )


def _loop_counts(example_ids, num_samples) -> np.ndarray:
    """The definition, sample by sample, with keys folded by hand."""
    counts = np.zeros((len(_X), _CLASSES + 1), np.int64)
    for row, (x, example_id) in enumerate(
        zip(np.asarray(_X), example_ids, strict=True)
    ):
        for sample in range(num_samples):
            block, position = divmod(sample, 128)
            if position == 0:
                key = jax.random.fold_in(jax.random.fold_in(_KEY, example_id), block)
                noise = np.asarray(jax.random.normal(key, (128, *_SHAPE), "float32"))
            stimulus = x + np.float32(0.5) * noise[position]
            counts[row, np.argmax(stimulus.ravel() @ np.asarray(_WEIGHT))] += 1
    return counts


class ClassCountsTest(parameterized.TestCase):
    @parameterized.parameters(1, 128, 300)
    def test_counts_match_a_plain_loop(self, num_samples):
        expected = _loop_counts([0, 1, 2], num_samples)
        counts = _counts(num_samples=num_samples)
        self.assertEqual(counts.dtype, np.int32)
        np.testing.assert_array_equal(counts, expected)

    @pytest.mark.newest
    def test_counts_depend_on_the_example_id_only(self):
        expected = _loop_counts([7, 4_000_000_000, 0], 300)
        ids = np.array([7, 4_000_000_000, 0])
        np.testing.assert_array_equal(_counts(example_ids=ids), expected)
        alone = [_counts(_X[i : i + 1], example_ids=ids[i : i + 1]) for i in range(3)]
        np.testing.assert_array_equal(np.concatenate(alone), expected)

    @parameterized.parameters(128, 640)
    def test_counts_do_not_depend_on_the_chunk(self, chunk_size):
        np.testing.assert_array_equal(_counts(chunk_size=chunk_size), _counts())

    @parameterized.product(num_devices=(1, 4), num_samples=(100, 1500))
    def test_counts_do_not_depend_on_the_devices(self, num_devices, num_samples):
        counts = _counts(num_samples=num_samples, mesh=_mesh(num_devices))
        np.testing.assert_array_equal(counts, _counts(num_samples=num_samples))

    def test_counts_do_not_depend_on_the_x64_flag(self):
        with jax.enable_x64(not jax.config.jax_enable_x64):
            counts = _counts()
        self.assertEqual(counts.dtype, np.int32)
        np.testing.assert_array_equal(counts, _counts())

    def test_mesh_takes_arrays_that_lie_on_one_device(self):
        device = jax.devices()[1]
        apply_fn = jax.tree_util.Partial(_linear, jax.device_put(_WEIGHT, device))
        counts = _counts(jax.device_put(_X, device), apply_fn, mesh=_mesh(4))
        np.testing.assert_array_equal(counts, _counts())

    def test_fewer_samples_are_a_prefix_of_more(self):
        few, many = _counts(num_samples=200), _counts(num_samples=333)
        self.assertTrue(np.all(few <= many))
        np.testing.assert_array_equal(many.sum(axis=1), 333)

    def test_counts_of_consecutive_ranges_add_up(self):
        edges = (0, 128, 384, 1500)
        parts = [
            _counts(first_sample=first, num_samples=end)
            for first, end in itertools.pairwise(edges)
        ]
        np.testing.assert_array_equal(sum(parts), _counts(num_samples=1500))
        np.testing.assert_array_equal(parts[1].sum(axis=1), 256)
        split = _counts(first_sample=384, num_samples=1500, mesh=_mesh(4))
        np.testing.assert_array_equal(split, parts[2])

    def test_non_finite_logits_are_invalid(self):
        def apply_fn(x):
            bad = jnp.where(
                x[:, 0, 0, 0] > 0.5,
                jnp.nan,
                jnp.where(x[:, 0, 0, 1] > 0.5, jnp.inf, 0.0),
            )
            return _APPLY(x).at[:, 2].add(bad)

        counts = _counts(apply_fn=apply_fn)
        valid = _counts()
        self.assertTrue(np.all(counts[:, -1] > 50))
        self.assertTrue(np.all(counts[:, :-1] <= valid[:, :-1]))
        np.testing.assert_array_equal(counts.sum(axis=1), 300)

    def test_ties_go_to_the_lowest_class(self):
        counts = _counts(apply_fn=lambda x: jnp.zeros((len(x), _CLASSES)))
        np.testing.assert_array_equal(counts[:, 0], 300)

    def test_works_under_jit_and_vmap(self):
        jitted = jax.jit(
            lambda key, x, sigma: smoothing.class_counts(
                key, _APPLY, x, sigma=sigma, num_samples=300, num_classes=_CLASSES
            )
        )
        np.testing.assert_array_equal(jitted(_KEY, _X, 0.5), _counts())
        keys = jax.random.split(_KEY, 2)
        batched = jax.vmap(jitted, in_axes=(0, None, None))(keys, _X, 0.5)
        expected = [_counts(key=key) for key in keys]
        np.testing.assert_array_equal(batched, expected)

    def test_one_trace_for_other_weights_sigmas_and_sample_numbers(self):
        chex.clear_trace_counter()

        @chex.assert_max_traces(n=1)
        def apply_fn(weight, x):
            return _linear(weight, x)

        for scale in (1.0, 2.0):
            partial = jax.tree_util.Partial(apply_fn, scale * _WEIGHT)
            for num_samples, first_sample in ((10, 0), (1000, 0), (1000, 896)):
                smoothing.class_counts(
                    _KEY,
                    partial,
                    _X,
                    sigma=scale,
                    num_samples=num_samples,
                    num_classes=_CLASSES,
                    first_sample=first_sample,
                )

    def test_memory_does_not_grow_with_the_samples(self):
        def temporary(num_samples):
            function = jax.jit(
                lambda x: smoothing.class_counts(
                    _KEY,
                    _APPLY,
                    x,
                    sigma=0.5,
                    num_samples=num_samples,
                    num_classes=_CLASSES,
                )
            )
            return function.lower(_X).compile().memory_analysis().temp_size_in_bytes

        small, large = temporary(1000), temporary(100_000)
        self.assertGreater(small, 0)
        self.assertLessEqual(abs(large / small - 1), 0.05)

    def test_no_examples(self):
        self.assertEqual(_counts(_X[:0]).shape, (0, _CLASSES + 1))


class NoiseTest(parameterized.TestCase):
    def test_flat_draw_has_the_values_of_a_shaped_one(self):
        key = jax.random.fold_in(jax.random.fold_in(_KEY, 3), 9)
        np.testing.assert_array_equal(
            vote_counts.noise_block(_KEY, 3, 9, shape=_SHAPE),
            jax.random.normal(key, (128, *_SHAPE), "float32"),
        )

    @parameterized.parameters((1, 1), (50, 100), (100, 100), (128, 300))
    def test_selection_and_estimation_share_no_noise(self, num_select, num_estimate):
        """Every sample of one stream differs from every sample of the other."""

        def noise(stream, num_samples):
            key = jax.random.fold_in(_KEY, stream)
            blocks = range(-(-num_samples // 128))
            draws = [vote_counts.noise_block(key, 0, b, shape=(16,)) for b in blocks]
            return np.concatenate(draws)[:num_samples]

        select = noise(streams.SELECT, num_select)
        estimate = noise(streams.ESTIMATE, num_estimate)
        distances = np.abs(select[:, None] - estimate[None]).max(axis=-1)
        self.assertGreater(distances.min(), 0.1)

    def test_streams_are_distinct(self):
        distinct = {streams.SELECT, streams.ESTIMATE, streams.PREDICT}
        self.assertLen(distinct, 3)

    def test_noise_is_standard_normal_and_uncorrelated(self):
        draw = jax.vmap(lambda b: vote_counts.noise_block(_KEY, 0, b, shape=(8,)))
        noise = np.asarray(draw(jnp.arange(500))).reshape(-1, 8)
        num = len(noise)
        np.testing.assert_allclose(noise.mean(axis=0), 0, atol=5 / np.sqrt(num))
        np.testing.assert_allclose(
            noise.T @ noise / num, np.eye(8), atol=5 * np.sqrt(2 / num)
        )


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(chunk_size=100), "chunk_size"),
        (dict(num_samples=0), "num_samples"),
        (dict(num_samples=2**31), "num_samples"),
        (dict(first_sample=100), "first_sample.*128"),
        (dict(first_sample=-128), "first_sample"),
        (dict(first_sample=384), "first_sample.*num_samples=300"),
        (dict(example_ids=np.arange(2)), "example_ids"),
        (dict(example_ids=np.array([0.0, 1.0, 2.0])), "example_ids"),
        (dict(example_ids=np.array([0, 1, -2])), "example_ids"),
        (dict(example_ids=[0, 1, 2**32]), "example_ids"),
        (dict(x=2 * _X), "x in"),
        (dict(x=_X.at[0, 0, 0, 0].set(jnp.nan)), "nan"),
        (dict(x=np.zeros((1, *_SHAPE), np.uint8)), "divide by 255"),
        (dict(x=0.5), "batch"),
        (dict(key=jax.random.key(0, impl="rbg")), "threefry"),
        (dict(apply_fn=lambda x: x), "apply_fn"),
        (dict(apply_fn=lambda x: _APPLY(x)[:-1]), "apply_fn"),
        (dict(apply_fn=lambda x: (_APPLY(x),)), "apply_fn"),
        (dict(apply_fn=lambda x: _APPLY(x).astype(jnp.complex64)), "apply_fn"),
    )
    def test_refuses(self, arguments, text):
        with self.assertRaisesRegex(ValueError, text):
            _counts(**arguments)

    def test_refuses_a_raw_key_of_another_generator(self):
        with (
            jax.default_prng_impl("rbg"),
            self.assertRaisesRegex(ValueError, "threefry"),
        ):
            _counts(key=jax.random.PRNGKey(0))

    @parameterized.parameters(0.0, -1.0, float("nan"), float("inf"))
    def test_refuses_sigma(self, sigma):
        with self.assertRaisesRegex(ValueError, "sigma"):
            smoothing.class_counts(
                _KEY, _APPLY, _X, sigma=sigma, num_samples=9, num_classes=_CLASSES
            )


if __name__ == "__main__":
    absltest.main()
