"""What jstc finds in torchvision's classifiers and sixty networks of timm, a JSON file for each.

    python networks.py OUT [--limit 180] [NAME ...]

Networks have no weights and most no memory either: they are made on the meta device. A file that is there
is not made again. Uses what `jstc.analyse` gives, and nothing else of jstc.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import jstc

__all__ = ["build", "facts", "main"]

_SIZES = {"inception_v3": 299}
_SIZE = 224
_OPTIONS = {name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")}
_SHARE = 0.5
_MORE = ("coverage", "params_coverage", "inexact", "streams", "gated_groups")
"""Further attributes of a `ChannelMap`; one that is gone shows in the comparison."""

_TIMM = Path(__file__).with_name("timm.txt")


def _names() -> list[str]:
    from torchvision import models

    listed = [line for line in _TIMM.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [*models.list_models(module=models), *(f"timm:{name}" for name in listed)]


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The network, and an example input [1, 3, H, W]; on the meta device where it can be made there."""
    make: Any
    options: dict[str, Any]
    if name.startswith("timm:"):
        import timm

        name = name.removeprefix("timm:")
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        height, width = (config.input_size if config else (3, _SIZE, _SIZE))[1:]
        make, options = timm.create_model, {"pretrained": False}
    else:
        from torchvision import models

        height = width = _SIZES.get(name, _SIZE)
        make, options = models.get_model, {"weights": None, **_OPTIONS.get(name, {})}
    try:
        with torch.device("meta"):
            return make(name, **options).eval(), torch.zeros(1, 3, height, width, device="meta")
    except Exception:  # makes numbers that it needs
        torch.manual_seed(0)
        return make(name, **options).eval(), torch.zeros(1, 3, height, width)


def facts(network: nn.Module, image: torch.Tensor) -> dict[str, Any]:
    """Everything that an analysis says: groups, frozen channels with reasons, costs, plans by their hash."""
    channels = jstc.analyse(network, image)
    cost = channels.cost()
    return {
        "flops": cost.flops,
        "params": cost.params,
        "groups": [[g.name, g.width, g.start, " ".join(g.layers)] for g in channels.groups],
        "flops_share": channels.flops_share,
        "frozen": [[f.layer, f.dim, f.channels, f.reason] for f in channels.frozen],
        "unknown_operations": channels.unknown_operations,
        **{name: _plain(getattr(channels, name)) for name in _MORE if hasattr(channels, name)},
        "uniform": _plan(channels, network, lambda: channels.uniform_plan(flops=_SHARE)),
        "random": _plan(channels, network, lambda: channels.random_plan(flops=_SHARE, seed=0)),
    }


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


def _plan(channels: Any, network: nn.Module, draw: Any) -> dict[str, Any]:
    """A plan, its cost, and the sub-network that it makes."""
    try:
        plan = draw()
    except jstc.JstcError as error:  # a budget out of reach
        return {"refused": str(error)}
    cost = channels.cost(plan)
    small = channels.slice(network, plan)
    shapes = {name: list(tensor.shape) for name, tensor in small.state_dict().items()}
    return {
        "hash": plan.hash,
        "kept": sum(plan.counts.values()),
        "flops": cost.flops,
        "params": cost.params,
        "attributes": channels.attributes(plan),
        "shapes": hashlib.sha256(json.dumps(shapes).encode()).hexdigest(),
    }


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _write(path: Path, document: dict[str, Any]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
    temporary.replace(path)


def main() -> int:
    """1 when a network was not done in time, or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--limit", type=int, default=180, help="seconds for one network")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    failed = 0
    for name in options.names or _names():
        path = options.out / f"{name.replace(':', '-')}.json"
        if path.exists():
            continue
        began = time.monotonic()
        try:
            with _at_most(options.limit):
                found = facts(*build(name))
        except TimeoutError as error:
            failed += 1
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        except Exception as error:  # what is refused before must be refused after, in the same words
            found = {"failed": f"{type(error).__name__}: {error}"}
        _write(path, found)
        print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
