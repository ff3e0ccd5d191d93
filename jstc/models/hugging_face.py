"""Image classifiers of Hugging Face: `hf:ORG/NAME` of the hub or its cache, or a folder of `save_pretrained`.

Files come through huggingface_hub, networks and weights through transformers, which run no code of a
repository and unpickle nothing but tensors. A network is built from its config, which a `ModelSpec` carries,
so that it can be built again where there is no hub. What needs torch is imported where it is needed.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import importlib.util
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jstc._version import install_command
from jstc.core import files
from jstc.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "check",
    "class_names",
    "construct",
    "document",
    "from_cache",
    "has_fixed_size",
    "has_weights_here",
    "network_config",
    "require_reachable",
    "tensors",
]

_PREFIX = "hf:"
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_ANSWER_SECONDS = 10.0
_MOST_BYTES = 2**22  # of a config: one with 21,000 class names has 1 MB
_WEIGHTS = tuple(
    f"{name}{ending}" for name in ("model.safetensors", "pytorch_model.bin") for ending in ("", ".index.json")
)

# Said by the spec, of no use in building a network, or of the file and not of the network.
_NOT_KEPT = frozenset(
    (
        *("id2label", "label2id", "num_labels", "auto_map", "_name_or_path"),
        *("transformers_version", "torch_dtype", "dtype", "problem_type", "_commit_hash"),
    )
)


def check(name: str) -> None:
    """Raise `ModelError` when no network can have this name, or transformers is missing; looks up nothing."""
    where = location(name)
    if isinstance(where, Path):
        if not (where / "config.json").is_file():
            raise ModelError(
                f"model '{name}': there is no config.json in {where}, which save_pretrained writes"
            )
    elif not _REPOSITORY.fullmatch(where):
        raise ModelError(f"model '{name}': expected 'hf:ORG/NAME', or 'hf:./FOLDER' of save_pretrained")
    if importlib.util.find_spec("transformers") is None:
        raise ModelError(
            f"model '{name}' needs transformers, which is not installed: {install_command('hf')}"
        )


def location(name: str) -> Path | str:
    """The folder, or the name of the repository."""
    plain = name.removeprefix(_PREFIX)
    return Path(plain).expanduser() if plain.startswith((".", "/", "~")) else plain


def network_config(name: str) -> dict[str, Any]:
    """All that building the network needs, from its `config.json`.

    Raises `ModelError` where it cannot be had, or is that of something else than a network of transformers.
    """
    found = document(name, "config.json")
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        known = found.get("architecture") if isinstance(found, dict) else None
        advice = f"it is one of timm's: take timm:{name.rpartition('/')[2]}" if known else ""
        raise ModelError(f"model '{name}': its config.json names no network of transformers", advice)
    return {key: value for key, value in found.items() if key not in _NOT_KEPT}


def class_names(name: str) -> tuple[str, ...]:
    """The classes that the published network tells apart, in order; empty where it does not name them."""
    found = document(name, "config.json")
    known = found.get("id2label") if isinstance(found, dict) else None
    if not isinstance(known, dict) or not all(str(i) in known for i in range(len(known))):
        return ()
    names = tuple(str(known[str(i)]) for i in range(len(known)))
    return () if names[:1] == ("LABEL_0",) else names  # what transformers writes where nobody named them


def document(name: str, filename: str) -> Any:
    """A JSON file of the repository or folder; None where it has none of that name.

    Raises `ModelError` when it can be had neither from the hub nor from its cache, or is damaged.
    """
    where = location(name)
    path = where / filename if isinstance(where, Path) else _fetched(where, filename)
    if path is None or not path.is_file():
        return None
    try:
        return files.parse_json(files.read_bytes(path, limit=_MOST_BYTES), where=str(path))
    except (OSError, ValueError) as error:
        raise ModelError(f"model '{name}': {path} cannot be read: {error}") from None


def _fetched(repository: str, filename: str) -> Path | None:
    """The file in the cache, which it is put into first if need be."""
    hub = importlib.import_module("huggingface_hub")
    cached = hub.try_to_load_from_cache(repository, filename)
    if cached is not None:  # else something that says that it is known not to be there
        return Path(cached) if isinstance(cached, str) else None
    require_reachable(f"model 'hf:{repository}': its {filename}")
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        return Path(hub.hf_hub_download(repository, filename))
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"the Hugging Face hub has no '{repository}', or does not show it without a login "
            "(`hf auth login`)"
        ) from None
    except Exception as error:  # of whichever library it uses to reach the hub
        missing = isinstance(error, errors.EntryNotFoundError)
        if missing and not isinstance(error, errors.LocalEntryNotFoundError):
            return None
        raise _unreachable(f"model 'hf:{repository}': its {filename}", error) from error


def require_reachable(what: str) -> None:
    """Raise `ModelError` where the hub does not answer: the libraries would try again for half a minute.

    `what` is to be fetched from it.
    """
    constants: Any = importlib.import_module("huggingface_hub.constants")
    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        with urllib.request.urlopen(constants.ENDPOINT, timeout=_ANSWER_SECONDS):
            pass
    except urllib.error.HTTPError:  # an answer, too
        pass
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _unreachable(what, error) from None


def _unreachable(what: str, error: Exception) -> ModelError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ModelError(
        f"{what}: not in the cache, and the Hugging Face hub does not answer ({lines[0][:160]})",
        "without a network name a file or a folder that you have (--weights FILE, hf:./FOLDER), or let "
        "HF_HOME name a cache that has it",
    )


@contextlib.contextmanager
def from_cache() -> Iterator[None]:
    """A block in which the libraries take what the cache has, and ask the hub for nothing."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def has_weights_here(name: str) -> bool:
    """Whether weights are in the folder or the cache, so that nothing has to be fetched.

    Raises `ModelError` for a folder without any.
    """
    where = location(name)
    if isinstance(where, Path):
        if not any((where / weights).is_file() for weights in _WEIGHTS):
            raise ModelError(
                f"model '{name}': there are no weights in {where}", "name a file: --weights FILE"
            )
        return True
    hub = importlib.import_module("huggingface_hub")
    return any(isinstance(hub.try_to_load_from_cache(where, weights), str) for weights in _WEIGHTS)


# Networks and weights, by transformers.


def has_fixed_size(name: str) -> bool:
    """Whether the published network takes images of one size alone: it has an embedding for each place."""
    import torch

    with torch.device("meta"):
        network = construct(network_config(name), num_classes=1)
    return any("position" in key and tensor.dim() == 3 for key, tensor in network.named_parameters())


def construct(
    config: Mapping[str, Any], *, num_classes: int, input_shape: tuple[int, int, int] | None = None
) -> nn.Module:
    """The classifier of a config for such classes, with weights of its own initialisation.

    `input_shape` [C, H, W] is that of the images where they are others than those of the config. Raises
    `ModelError` for a config of no image classifier, whatever transformers raises for an odd one.
    """
    auto = _transformers()
    kinds = importlib.import_module("transformers.models.auto.modeling_auto")
    options = {key: value for key, value in config.items() if key not in _NOT_KEPT}
    kind = options.pop("model_type")
    if kind == "timm_wrapper":  # builds whatever it names, and looks it up on the hub
        raise ModelError("a network of timm has a name of its own here", "timm:NAME")
    if kind not in kinds.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        raise ModelError(f"the transformers that is installed has no image classifiers of the kind '{kind}'")
    options.setdefault("architectures", [])  # where a kind has several, it says which
    found = auto.AutoConfig.for_model(kind, **options, num_labels=num_classes)
    if input_shape is not None:
        channels, height, width = input_shape
        for key, value in (("num_channels", channels), ("image_size", height)):
            if isinstance(getattr(found, key, None), int) and height == width:
                setattr(found, key, value)
    with _quiet():
        network: nn.Module = auto.AutoModelForImageClassification.from_config(found, trust_remote_code=False)
    return network


def tensors(name: str) -> dict[str, Tensor]:
    """The published weights by name, without those of layers that the files lack, such as a classifier.

    Raises `ModelError` where they can be had neither from the hub nor from its cache.
    """
    auto, where = _transformers(), location(name)
    here = has_weights_here(name)
    if not here:
        require_reachable(f"the weights of model '{name}'")
    try:
        with _quiet(), from_cache() if here else contextlib.nullcontext():
            network, info = auto.AutoModelForImageClassification.from_pretrained(
                str(where), trust_remote_code=False, output_loading_info=True
            )
    except Exception as error:  # OSError, or of whichever library it uses to reach the hub
        raise ModelError(f"the weights of model '{name}' cannot be loaded: {error}") from error
    missing = {str(key) for key in info["missing_keys"]}
    return {key: value for key, value in network.state_dict().items() if key not in missing}


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(
            f"networks of Hugging Face need transformers ({error}): {install_command('hf')}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's reports on what it loads: what matters in them is told in our own words."""
    said = importlib.import_module("transformers.utils.logging")
    level, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        yield
    finally:
        said.set_verbosity(level)
        if bars:
            said.enable_progress_bar()
