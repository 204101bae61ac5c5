"""Trains a classifier on noisy inputs, to be certified by randomized smoothing.

    python experiments/train.py --dataset=digits --model=cnn --sigma=0.25 \
        --workdir=runs/digits_cnn

`--help` lists the settings; the trained model is `<workdir>/checkpoint`.
"""

from robustjax_experiments.configs.training import TrainConfig
from robustjax_experiments.harness import flags_from_config
from robustjax_experiments.training import recipe


def main(config: TrainConfig) -> None:
    """Trains and prints the accuracies."""
    metrics = recipe.run(config)
    print(
        f"{metrics['checkpoint']}: test accuracy {metrics['test_accuracy']:.4f}, "
        f"with noise {metrics['test_accuracy_noisy']:.4f} (sigma {config.sigma})"
    )


if __name__ == "__main__":
    flags_from_config.launch(TrainConfig, main)
