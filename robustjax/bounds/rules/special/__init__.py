"""Rules of log-sum-exps and of functions of `jax.scipy.special`."""
