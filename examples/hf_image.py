"""An image classifier by the Trainer of Hugging Face: heads, MLPs and width of a small ViT are cut.

The images are the 8 x 8 digits of scikit-learn; nothing is downloaded, the weights begin at random.
Needs `pip install "transformers[torch]"`.
"""

import dataclasses
from pathlib import Path

import torch
import transformers
import typer
from sklearn.datasets import load_digits
from torch import nn
from transformers import Trainer, TrainingArguments

import jstc


def trainer(network: nn.Module, data: list[dict] | None, out: Path, **settings: float) -> Trainer:
    off = {"save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True}
    sizes = {"per_device_train_batch_size": 50, "per_device_eval_batch_size": 200}
    arguments = TrainingArguments(str(out / "trainer"), warmup_steps=10, **off, **sizes, **settings)
    return Trainer(network, arguments, train_dataset=data)


def main(out: Path = Path("runs/vit"), rounds: int = 4, seed: int = 0, tiny: bool = False) -> None:
    """A vision transformer at half its FLOPs; tiny: a smaller one and little data, in seconds."""
    transformers.set_seed(seed)
    number, width, epochs, candidates = (200, 16, 1, 6) if tiny else (997, 48, 12, 12)
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8)
    data = [{"pixel_values": images[i], "labels": int(labels[i])} for i in torch.randperm(len(labels))]
    test, validation, training = data[:500], data[500:800], data[800 : 800 + number]
    layers = {"hidden_size": width, "num_hidden_layers": 3, "num_attention_heads": 4}
    pixels = {"image_size": 8, "patch_size": 2, "num_channels": 1}
    config = transformers.ViTConfig(intermediate_size=4 * width, num_labels=10, **layers, **pixels)
    network = transformers.ViTForImageClassification(config)

    def fit(network: nn.Module, epochs: int, rate: float) -> None:
        trainer(network, training, out, num_train_epochs=epochs, learning_rate=rate).train()

    def accuracy(network: nn.Module, data: list[dict] = validation) -> float:
        found = trainer(network, None, out).predict(data)
        return float((found.predictions.argmax(1) == found.label_ids).mean())

    fit(network, epochs, 2e-3)
    batches = [transformers.default_data_collator(training[i : i + 50]) for i in range(0, 200, 50)]
    given = {"trained": True, "batches": batches, "loss": lambda network, batch: network(**batch).loss}
    given |= {"outputs": lambda found: found.logits, "settings": {"search.candidates": candidates}}
    search = jstc.JointSearch(
        network, images[:1], out=out / "search", flops=0.5, rounds=rounds, seed=seed, **given
    )
    while not search.done:
        round = search.ask()
        fit(round.network, 1, 1e-3)
        search.tell(round, accuracy(round.network))
    for round in search.finalists():
        search.tell(round, accuracy(round.network))
    slim = search.finish()
    fit(slim.network, 4, 1e-3)
    dataclasses.replace(slim, score=accuracy(slim.network)).save(out / "slim")
    for name, net in (("whole", network), ("slim", slim.network)):
        file = jstc.export_onnx(net, images[:1], out / f"{name}.onnx", outputs=lambda found: found.logits)
        print(f"{name}: accuracy {accuracy(net, test):.4f}, ONNX differs by {file.max_abs_diff:.1e} at most")
    print(f"FLOPs {search.channels.cost().flops:,} -> {slim.cost.flops:,}")


if __name__ == "__main__":
    typer.run(main)
