"""Worst cases known by other means than the dual: quadrature, geometry, programs."""

import dataclasses
import itertools

import numpy as np
from scipy import integrate, optimize, sparse, special

_ANGLES = (0.0, 0.1, 0.3, 0.6, 0.9, 1.2, 1.4, np.pi / 2, 1.9)
_TABLE = """
0.6 0.1 - 0.60426235 - 0.61694024 - 0.65279611 - 0.68210712 -
0.6 0.5 - 0.38960855 0.39857744 - - 0.57169761 - 0.72110656 0.88133312
0.6 0.9 0.27236731 - 0.28365500 0.32069241 0.39802401 0.55229978 0.72991548 0.94164223 1.43379516
0.6 0.98 - - - - 0.39442155 0.59681085 - 1.27658241 -
0.75 0.1 1.05718346 1.05751608 - 1.06882955 - 1.09984621 1.11278470 - -
0.75 0.5 - 0.85038560 - 0.90452751 - - 1.13246181 1.19624294 -
0.75 0.9 - 0.70441090 0.72692377 - - - 1.35563767 - 1.88742514
0.75 0.98 - - 0.70819715 - 0.98376013 1.32623235 1.65983016 1.97550440 2.48710055
0.9 0.1 - 1.59424126 - - - 1.62815677 - - -
0.9 0.5 1.42917219 - 1.44442554 1.48779881 - - 1.69125144 - -
0.9 0.9 1.30537456 1.30998660 1.34485115 1.45091423 1.62137781 1.84867367 - - 2.37580117
0.9 0.98 1.28577895 - 1.33554487 - 1.74031146 - - 2.61623994 -
0.99 0.1 - - - 2.54833546 - 2.56572327 2.57276181 2.57889169 -
0.99 0.5 - - 2.44192803 - - - 2.62962205 2.66243640 -
0.99 0.9 - 2.34969948 2.39358863 2.51467643 2.68222877 2.86352057 2.97317162 3.05297064 -
0.99 0.98 2.32952048 2.33910380 - 2.59656069 - - 3.36300586 3.47230718 3.60802306
0.999 0.1 3.26302123 3.26317854 3.26442506 - 3.27473525 3.28253383 3.28820686 - -
0.999 0.5 3.17280500 - - 3.21456801 - - - - 3.40931698
0.999 0.9 3.10435796 3.11075376 - 3.27431564 3.42421337 3.56900562 - 3.70674933 3.79025074
0.999 0.98 - 3.10443697 - 3.38462704 - - 4.00586035 4.07720285 -
"""  # noqa: E501
BOX = {
    (0.75, 0.98): {0.9: 0.982381, 1.2: 1.320200},
    (0.9, 0.98): {0.9: 1.703096},
    (0.99, 0.9): {0.6: 2.512875, 0.9: 2.673619, 1.2: 2.861328},
    (0.99, 0.98): {0.6: 2.543070, 1.4: 3.312919},
    (0.999, 0.9): {0.6: 3.262493, 0.9: 3.399531, 1.2: 3.558502},
    (0.999, 0.98): {0.6: 3.288407, 1.4: 3.944173},
}


def radius_table() -> np.ndarray:
    """Rows p, rho, theta, exact radius, box radius (nan where only exact is known)."""
    rows = []
    for line in _TABLE.strip().splitlines():
        p, rho, *radii = line.split()
        p, rho = float(p), float(rho)
        for theta, radius in zip(_ANGLES, radii, strict=True):
            if radius == "-":
                continue
            exact = float(radius)
            box = BOX.get((p, rho), {}).get(theta, exact)
            # Beyond a right angle the box reads the parallel component as 0.
            rows.append((p, rho, theta, exact, box if theta < 1.58 else np.nan))
    return np.array(rows)


def components(p, rho, theta):
    """Parallel and perpendicular part of a gradient, rho of the longest there is."""
    length = rho * np.exp(-0.5 * special.ndtri(p) ** 2) / np.sqrt(2 * np.pi)
    return -length * np.cos(theta), length * np.sin(theta)


def random_gradients(count, seed=0, least=1e-5):
    """p, parallel and perpendicular components over the range that occurs."""
    rng = np.random.default_rng(seed)
    p = 1 - 10 ** rng.uniform(np.log10(least), np.log10(0.49), count)
    rho = np.sqrt(rng.uniform(0, 1, count))
    rho[: count // 10] = 1 - 10 ** rng.uniform(-6, -1, count // 10)
    theta = rng.uniform(0, np.pi / 2, count)
    theta[: count // 20] = 10 ** rng.uniform(-4, 0, count // 20)
    return p, *components(p, rho, theta)


def inner_gradients(seed: int, count: int):
    """As `random_gradients`, away from the corners."""
    rng = np.random.default_rng(seed)
    p, rho, theta = (
        rng.uniform(0.52, 0.9995, count),
        rng.uniform(0.05, 0.99, count),
        rng.uniform(0.05, 1.5, count),
    )
    return p, *components(p, rho, theta)


def line_radius(p, length):
    """The l2 radius by the interval of the Gaussian line, with SciPy's root finder."""

    def gap(a):
        return _bell(special.ndtri(a)) - _bell(special.ndtri(a + p)) + length

    a = optimize.brentq(gap, 1e-300, (1 - p) / 2, xtol=1e-300, rtol=1e-15)
    low, high = special.ndtri(a), -special.ndtri(1 - p - a)

    def majority(r):
        return special.ndtr(high - r) - special.ndtr(low - r) - 0.5

    return optimize.brentq(majority, max(0, (low + high) / 2), high + 1, xtol=1e-14)


def dual_by_quadrature(multipliers, r, known) -> float:
    """D of one certificate by adaptive quadrature of E min(L - a z1 - b z2 - c, 0)."""
    a, b, c = multipliers
    q, parallel, perpendicular = known

    def gap(z):
        return np.exp(r * z - r * r / 2) - a * z - c

    def integrand(z):
        t = gap(z) / b
        bell = np.exp(-0.5 * min(t * t, 1400.0)) / np.sqrt(2 * np.pi)
        value = gap(z) * special.ndtr(-t) - b * bell
        return value * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)

    low, high = -13.0, 13.0 + r
    scan = np.linspace(low, high, 8001)
    turns = np.flatnonzero(np.diff(np.sign(gap(scan))))
    roots = [optimize.brentq(gap, *scan[i : i + 2], xtol=1e-15) for i in turns]
    if a > 0:
        roots.append(np.log(a / r) / r + r / 2)  # where the gap is least
    steps = 10.0 ** np.arange(-8, 0.5, 0.5)
    near = [root + step for root in roots for step in (*-steps, 0.0, *steps)]
    edges = np.unique(np.clip([*np.arange(low, high, 0.5), high, *near], low, high))
    parts = [
        integrate.quad(integrand, *pair, epsabs=1e-16, epsrel=1e-13)[0]
        for pair in itertools.pairwise(edges)
    ]
    return c * (1 - q) + a * parallel + b * perpendicular + float(np.sum(parts))


def _line_rule():
    """Nodes and weights for expectations under N(0, 1), also where it is moved by 5."""
    x, w = np.polynomial.legendre.leggauss(8)
    edges = np.linspace(-12, 18, 121)
    half = 0.5 * np.diff(edges)[:, None]
    z = (0.5 * (edges[1:] + edges[:-1])[:, None] + half * x).ravel()
    return z, (half * w).ravel() * _bell(z)


def _bell(x):
    return np.exp(-0.5 * np.minimum(x * x, 1400.0)) / np.sqrt(2 * np.pi)


_Z, _WEIGHT = _line_rule()


def extremal_certificates(a, b, r) -> np.ndarray:
    """Rows p, parallel, perpendicular, c whose exact radius is r by construction.

    f = 1 where L(z1) <= a z1 + b z2 + c is the worst case of its own moments; c is
    chosen so that its probability at distance r is 1/2. b must not be small, c < 100.
    """
    a, b, r = (np.asarray(v, np.float64)[:, None] for v in (a, b, r))
    likelihood = np.exp(r * _Z - r * r / 2)

    def h(c):
        return (a * _Z + c - likelihood) / b

    low, high = np.full_like(r, -100.0), np.full_like(r, 100.0)
    for _ in range(60):
        c = 0.5 * (low + high)
        mass = (_WEIGHT * likelihood * special.ndtr(h(c))).sum(1, keepdims=True)
        low, high = np.where(mass < 0.5, c, low), np.where(mass < 0.5, high, c)
    f = special.ndtr(h(c))
    moments = [(_WEIGHT * m).sum(1) for m in (f, _Z * f, _bell(h(c)))]
    return np.stack([*moments, c[:, 0]], axis=-1)


def constructed_radii(num: int, *, free_parallel: bool):
    """p, parallel, perpendicular and the exact radius of worst cases."""
    rng = np.random.default_rng(3)
    low = -1.0 if free_parallel else 0.02
    r = rng.uniform(0.05, 3.0, 1500)
    a = r * rng.uniform(low, 1.0, r.size) * np.exp(rng.uniform(0, 2, r.size))
    b = 10 ** rng.uniform(-1, 1.2, r.size)
    p, parallel, perpendicular, c = extremal_certificates(a, b, r).T
    longest, _ = components(p, 1.0, np.pi)
    fits = (p > 0.505) & (parallel < 0) & (c > 0) & (c < 99)
    rows = np.flatnonzero(fits & (perpendicular > 0.1 * longest))[:num]
    assert rows.size == num
    return p[rows], parallel[rows], perpendicular[rows], r[rows]


def worst_value(known, r, *, free_parallel=True) -> float:
    """max D over the multipliers, by SciPy on a fixed rule; b must not get small."""
    q, parallel, perpendicular = known
    likelihood = np.exp(r * _Z - r * r / 2)

    def loss(x):
        a, b, c = x[0], np.exp(x[1]), x[2]
        t = (a * _Z + c - likelihood) / b
        f, edge = special.ndtr(t), _bell(t)
        value = c * (1 - q) + a * parallel + b * perpendicular
        value -= b * np.sum(_WEIGHT * (t * f + edge))
        gradient = [
            parallel - np.sum(_WEIGHT * _Z * f),
            b * (perpendicular - np.sum(_WEIGHT * edge)),
            (1 - q) - np.sum(_WEIGHT * f),
        ]
        return -value, -np.array(gradient)

    bounds = [(None if free_parallel else 0.0, None), (-8, 12), (0.0, None)]
    options = dict(ftol=1e-15, gtol=1e-10, maxiter=2000, maxfun=4000)
    found = optimize.minimize(
        loss,
        [2.0 * r, 0.0, 2.0],
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options=options,
    )
    return -found.fun


def _edges(num_cells: int, reach: float) -> np.ndarray:
    inner = np.linspace(-reach, reach, num_cells - 1)
    return np.concatenate([[-np.inf], inner, [np.inf]])


def _masses(edges, shift=0.0):
    """P and E[z] of each interval under a standard normal that is moved by `shift`."""
    edges = edges - shift
    bell = np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi)
    return np.diff(special.ndtr(edges)), -np.diff(bell)


@dataclasses.dataclass(frozen=True)
class CellClassifier:
    """f constant on the cells of a grid in as many dimensions as `values` has."""

    values: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(cls, function, *, num_cells: int, dim: int, reach: float = 5.0):
        """The classifier with the values of `function` at the centres of the cells."""
        edges = _edges(num_cells, reach)
        inner = edges[1:-1]
        step = inner[1] - inner[0]
        centers = np.concatenate([[inner[0] - step / 2], inner + step / 2])
        axes = np.meshgrid(*[centers] * dim, indexing="ij")
        values = np.clip(np.asarray(function(*axes), np.float64), 0.0, 1.0)
        return cls(np.broadcast_to(values, axes[0].shape), edges)

    def moments(self):
        """p and m, exactly."""
        mass, first = _masses(self.edges)
        dim = self.values.ndim
        p = self._contract([mass] * dim)
        m = [
            self._contract([first if i == j else mass for j in range(dim)])
            for i in range(dim)
        ]
        return p, np.array(m)

    def probability(self, delta) -> float:
        """The probability of the class at the point moved by delta, exactly."""
        return self._contract([_masses(self.edges, d)[0] for d in delta])

    def _contract(self, vectors) -> float:
        result = self.values
        for vector in vectors:
            result = np.tensordot(vector, result, axes=(0, 0))
        return float(result)


def linear_program(p, parallel, perpendicular, r, *, num_cells=50, extra=None) -> float:
    """The least probability at r over all f that are constant on cells of the plane.

    An upper bound of the worst case, as fewer classifiers compete. `extra` is the value
    of E[(z1^2 - 1) f], where that is known as well.
    """
    edges = _edges(num_cells, 6.0)
    mass, first = _masses(edges)
    columns = [np.outer(mass, mass), np.outer(first, mass), np.outer(mass, first)]
    given = [p, parallel, perpendicular]
    if extra is not None:
        finite = np.where(np.isfinite(edges), edges, 0.0)
        second = -np.diff(finite * np.exp(-0.5 * finite**2)) / np.sqrt(2 * np.pi)
        columns.append(np.outer(second, mass))
        given.append(extra)
    shifted = np.outer(_masses(edges, r)[0], mass)
    result = optimize.linprog(
        shifted.ravel(),
        A_eq=sparse.csr_array(np.stack([c.ravel() for c in columns])),
        b_eq=given,
        bounds=(0, 1),
        method="highs",
    )
    assert result.success, result.message
    return float(result.fun)
