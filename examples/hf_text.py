"""A text encoder by the Trainer of Hugging Face: embeddings, heads and MLPs of a small BERT are cut.
Which library does a docstring come from? The texts are real: those of five packages that are installed here.
Nothing is downloaded, the weights begin at random. Needs `pip install "transformers[torch]"`.
"""

import ast
import collections
import dataclasses
import importlib.util
import random
import re
from pathlib import Path

import transformers
import typer
from torch import nn

import jstc

LIBRARIES = ("torch", "numpy", "sklearn", "matplotlib", "transformers")
LENGTH, VOCABULARY = 32, 2000


def docstrings(library: str, number: int) -> list[list[str]]:
    """First words of that many docstrings, the names of the libraries left out."""
    found, files = {}, sorted(Path(importlib.util.find_spec(library).origin).parent.rglob("*.py"))
    random.shuffle(files)
    while len(found) < number:
        for node in ast.walk(ast.parse(files.pop().read_text(errors="ignore"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                words = re.findall("[a-z]+", (ast.get_docstring(node) or "").lower())
                words = [word for word in words if word not in LIBRARIES][: LENGTH - 1]
                found |= {" ".join(words): words} if len(words) > 8 else {}
    return list(found.values())[:number]


def make_data(number: int) -> list[dict]:
    """Docstrings of each library, in any order; a word is its rank, 0 fills, 1 begins, 2 is a rare word."""
    texts = [(words, label) for label, name in enumerate(LIBRARIES) for words in docstrings(name, number)]
    random.shuffle(texts)
    common = collections.Counter(word for words, _ in texts for word in words).most_common(VOCABULARY - 3)
    ids, rows = {word: 3 + i for i, (word, _) in enumerate(common)}, []
    for words, label in texts:
        row = [1, *(ids.get(word, 2) for word in words), *[0] * LENGTH][:LENGTH]
        rows.append({"input_ids": row, "attention_mask": [min(i, 1) for i in row], "labels": label})
    return rows


def trainer(
    network: nn.Module, data: list[dict] | None, out: Path, **settings: float
) -> transformers.Trainer:
    off = {"save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True}
    sizes = {"per_device_train_batch_size": 32, "per_device_eval_batch_size": 200, "warmup_steps": 10}
    arguments = transformers.TrainingArguments(str(out / "trainer"), **off, **sizes, **settings)
    return transformers.Trainer(network, arguments, train_dataset=data)


def main(out: Path = Path("runs/text"), rounds: int = 4, seed: int = 0, tiny: bool = False) -> None:
    """A text encoder at half its FLOPs; tiny: a smaller one and little data, in seconds."""
    transformers.set_seed(seed)
    number, width, epochs, candidates = (70, 16, 1, 6) if tiny else (300, 64, 10, 12)
    data = make_data(number)
    test, validation, training = data[:number], data[number : 2 * number], data[2 * number :]
    layers = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "num_labels": len(LIBRARIES)}
    config = transformers.BertConfig(intermediate_size=4 * width, **layers, **words)
    network = transformers.BertForSequenceClassification(config)

    def fit(network: nn.Module, epochs: int, rate: float) -> None:
        trainer(network, training, out, num_train_epochs=epochs, learning_rate=rate).train()

    def accuracy(network: nn.Module, data: list[dict] = validation) -> float:
        found = trainer(network, None, out).predict(data)
        return float((found.predictions.argmax(1) == found.label_ids).mean())

    fit(network, epochs, 1e-3)
    batches = [transformers.default_data_collator(training[i : i + 32]) for i in range(0, 192, 32)]
    example = {name: batches[0][name][:1] for name in ("input_ids", "attention_mask")}
    given = {"trained": True, "batches": batches, "loss": lambda network, batch: network(**batch).loss}
    given |= {"outputs": lambda found: found.logits, "settings": {"search.candidates": candidates}}
    given |= {"out": out / "search", "flops": 0.5, "rounds": rounds, "seed": seed}
    search = jstc.JointSearch(network, example, **given)
    while not search.done:
        round = search.ask()
        fit(round.network, 1, 5e-4)
        search.tell(round, accuracy(round.network))
    for round in search.finalists():
        search.tell(round, accuracy(round.network))
    slim = search.finish()
    fit(slim.network, 2, 5e-4)
    dataclasses.replace(slim, score=accuracy(slim.network)).save(out / "slim")
    for name, net in (("whole", network), ("slim", slim.network)):
        file = jstc.export_onnx(net, example, out / f"{name}.onnx")
        print(f"{name}: accuracy {accuracy(net, test):.4f}, ONNX differs by {file.max_abs_diff:.1e} at most")
    print(f"FLOPs {search.channels.cost().flops:,} -> {slim.cost.flops:,}")


if __name__ == "__main__":
    typer.run(main)
