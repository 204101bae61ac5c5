"""The reference way: a PyTorch loop that repeats the image and counts on the host.

In the style of public smoothing code, on the same architectures with random weights.
Used where torch can be imported.
"""

import time
from typing import Any

import numpy as np

from benchmarks.certification import Case


def samples_per_second(case: Case, *, rounds: int) -> float:
    """Samples a second of the loop, the median over the rounds.

    Raises:
        ImportError: if torch is not installed.
        KeyError: if the architecture is not written here.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, case.dtype)
    network = _networks(torch)[case.model](case).to(device=device, dtype=dtype).eval()
    image = torch.rand(case.shape[-1], *case.shape[:-1], device=device, dtype=dtype)
    with torch.inference_mode():
        _count(torch, network, image, case, num_chunks=2)
        seconds = []
        for _ in range(rounds):
            began = time.perf_counter()
            _count(torch, network, image, case, num_chunks=case.num_chunks)
            seconds.append(time.perf_counter() - began)
    return case.num_samples / float(np.median(seconds))


def _count(
    torch: Any, network: Any, image: Any, case: Case, *, num_chunks: int
) -> np.ndarray:
    counts = np.zeros(10, dtype=int)
    for _ in range(num_chunks):
        batch = image.repeat((case.chunk_size, 1, 1, 1))
        noise = torch.randn_like(batch) * 0.25
        winners = network(batch + noise).argmax(1).cpu().numpy()
        counts += np.bincount(winners, minlength=10)
    return counts


def _networks(torch: Any) -> dict[str, Any]:
    nn = torch.nn

    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self, width_in: int, width: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(width_in, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, 1, 1, bias=False),
                nn.BatchNorm2d(width),
            )
            self.shortcut = (
                nn.Identity()
                if stride == 1
                else nn.Sequential(
                    nn.Conv2d(width_in, width, 1, stride, bias=False),
                    nn.BatchNorm2d(width),
                )
            )

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + self.shortcut(x))

    def mlp(case: Case) -> Any:
        size = int(np.prod(case.shape))
        return nn.Sequential(
            nn.Flatten(), nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def cnn(case: Case) -> Any:
        return nn.Sequential(
            nn.Conv2d(case.shape[-1], 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )

    def resnet(num_blocks: int) -> Any:
        layers: list[Any] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)]
        width_in = 16
        for width in (16, 32, 64):
            for _ in range(num_blocks):
                layers.append(Block(width_in, width, 1 if width == width_in else 2))
                width_in = width
        return nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
        )

    return {
        "mlp": mlp,
        "cnn": cnn,
        "resnet20": lambda case: resnet(3),
        "resnet110": lambda case: resnet(18),
    }
