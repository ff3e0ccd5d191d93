"""Slim networks of any kind: saved without code, rebuilt from the user's own class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import jstc
from jstc.channels.trace.ids import named_tensors, tensors_held
from jstc.core import files
from jstc.errors import ChannelError, InputError, ModelError
from tests.helpers.task_networks import NETWORKS, Encoder, Keywords, Segmentation, SuperResolution


def made(name: str, *, dtype: torch.dtype = torch.float32, flops: float = 0.5) -> jstc.Slim:
    build, inputs = NETWORKS[name]
    torch.manual_seed(3)
    model = build()
    channels = jstc.analyse(model, inputs(1))
    plan = channels.random_plan(flops=flops, seed=1)
    network = channels.slice(model, plan).to(dtype)
    with torch.no_grad():
        for tensor in network.buffers():
            tensor.add_(1)
    return jstc.Slim.of(channels, plan, network, score=-2.5)


def fresh(name: str) -> nn.Module:
    torch.manual_seed(4)
    return NETWORKS[name][0]()


def contents(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in named_tensors(network)}


def require_equal(first: nn.Module, second: nn.Module) -> None:
    ours, theirs = contents(first), contents(second)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_any_kind_comes_back_bit_by_bit(name, tmp_path):
    slim = made(name)
    slim.save(tmp_path / "slim")
    whole = fresh(name)
    before = {key: tensor.clone() for key, tensor in contents(whole).items()}
    network = jstc.rebuild(whole, tmp_path / "slim")
    require_equal(slim.network, network)
    assert type(network) is type(whole) and not network.training
    assert sum(p.numel() for p in network.parameters()) == slim.cost.params
    inputs = NETWORKS[name][1](3)
    with torch.no_grad():
        expected = tensors_held(slim.network.eval()(*inputs))
        for ours, theirs in zip(expected, tensors_held(network(*inputs)), strict=True):
            assert torch.equal(ours, theirs)
    assert all(torch.equal(tensor, before[key]) for key, tensor in contents(whole).items())


def test_the_folder_says_it_all_and_saving_again_gives_the_same_bytes(tmp_path):
    slim = made("encoder")
    for folder in ("first", "second", "second"):
        slim.save(str(tmp_path / folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
    names = ["model.json", "model.safetensors", "plan.json"]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == names
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert jstc.Plan.load(tmp_path / "first" / "plan.json") == slim.plan
    document = json.loads((tmp_path / "first" / "model.json").read_text())
    assert document["class"] == "Encoder" and document["score"] == -2.5
    assert document["cost"] == {"flops": slim.cost.flops, "params": slim.cost.params}
    assert document["attributes"] == dict(slim.attributes) and document["plan_hash"] == slim.plan.hash


def test_shared_parameters_stay_shared_and_attributes_follow(tmp_path):
    slim = made("encoder", flops=0.3)
    slim.save(tmp_path / "slim")
    network = jstc.rebuild(Encoder(), tmp_path / "slim")
    assert network.scores.weight is network.embedding.weight
    assert "scores.weight" not in load_file(tmp_path / "slim" / "model.safetensors")
    ours, theirs = (
        [getattr(one, name) for name in ("num_heads", "head_dim")] for one in (network, slim.network)
    )
    assert slim.attributes and ours == theirs != [4, 4]
    assert torch.equal(network.positions, slim.network.positions)  # no state_dict has it


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_number_formats_are_those_of_the_file(dtype, tmp_path):
    slim = made("segmentation", dtype=dtype)
    slim.save(tmp_path / "slim")
    network = jstc.rebuild(Segmentation(), tmp_path / "slim")
    require_equal(slim.network, network)
    assert network.main.weight.dtype == dtype and network.stem[1].num_batches_tracked.dtype == torch.int64


def test_a_network_that_was_built_for_its_shapes_alone_will_do(tmp_path):
    slim = made("segmentation")
    slim.save(tmp_path / "slim")
    with torch.device("meta"):
        whole = Segmentation()
    require_equal(slim.network, jstc.rebuild(whole, tmp_path / "slim"))


def test_a_class_whose_heads_were_cut_is_known_by_its_own_name(tmp_path):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x):
            return self.layer(x, x, x, need_weights=False)[0]

    model = Attention()
    channels = jstc.analyse(model, torch.randn(1, 5, 16))
    plan = channels.uniform_plan(flops=0.6)
    slim = jstc.Slim.of(channels, plan, channels.slice(model, plan))
    slim.save(tmp_path / "slim")
    network = jstc.rebuild(Attention(), tmp_path / "slim")
    x = torch.randn(2, 5, 16)
    assert network.layer.num_heads < 4 and torch.equal(network(x), slim.network.eval()(x))


# -- what is refused -----------------------------------------------------------------------------------


def refused(model: nn.Module, folder: Path, match: str) -> ModelError:
    with pytest.raises(ModelError, match=match) as caught:
        jstc.rebuild(model, folder)
    return caught.value


def test_another_network_is_told_before_anything_is_cut(tmp_path):
    made("super-resolution").save(tmp_path / "slim")
    refused(Segmentation(), tmp_path / "slim", "class 'SuperResolution', but was given a 'Segmentation'")
    error = refused(SuperResolution(24), tmp_path / "slim", "a network of other sizes than the one given")
    assert "head.weight: [24, 3, 3, 3], there [16, 3, 3, 3]" in error.details
    deeper = SuperResolution()
    deeper.more = nn.Conv2d(3, 3, 1)
    refused(deeper, tmp_path / "slim", "2 only in the network, such as 'more.bias'")
    without: Any = SuperResolution()
    without.body = nn.Identity()
    refused(without, tmp_path / "slim", "2 only among the tensors, such as 'body.bias'")
    untied = Encoder()
    untied.scores = nn.Linear(16, 40)
    made("encoder").save(tmp_path / "tied")
    refused(untied, tmp_path / "tied", "1 only in the network, such as 'scores.weight'")
    with pytest.raises(ChannelError, match="was wrapped by DataParallel"):
        jstc.rebuild(nn.DataParallel(SuperResolution()), tmp_path / "slim")


def test_folders_that_are_missing_or_damaged(tmp_path):
    refused(Keywords(), tmp_path / "nowhere", "no slim network in .*: it has no model.json")
    folder = tmp_path / "slim"
    made("keywords").save(folder)
    whole = (folder / "model.safetensors").read_bytes()
    for content in (b"", whole[:40], whole[:-4]):
        (folder / "model.safetensors").write_bytes(content)
        refused(Keywords(), folder, r"model\.safetensors cannot be loaded")
    (folder / "model.safetensors").write_bytes(whole)
    made("keywords", flops=0.3).plan.save(folder / "plan.json")
    refused(Keywords(), folder, "is not the plan of the network beside it")
    (folder / "plan.json").write_text("{")
    refused(Keywords(), folder, r"plan: cannot read .*plan\.json")
    (folder / "plan.json").unlink()
    jstc.rebuild(Keywords(), folder)
    document = files.read_json(folder / "model.json")
    for change, match in (
        ({"schema": 2}, "schema 2 is not 1"),
        ({"attributes": [1]}, "'attributes' is not a mapping"),
        ({"attributes": {"layers.0.stride": 1}}, "has no attribute 'layers.0.stride'"),
        ({"whole": {"out.weight": 3}}, "'whole' has something else than lists of sizes"),
        ({"whole": {"out.weight": []}}, "a network of other sizes"),
    ):
        files.write_json(folder / "model.json", document | change)
        refused(Keywords(), folder, match)


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    slim = made("keywords")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("mine")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.safetensors").write_bytes(b"somebody's")
    (tmp_path / "file").write_text("mine")
    for name in ("notes", "half", "file"):
        with pytest.raises(InputError, match=f"cannot save a network to .*{name}"):
            slim.save(tmp_path / name)
    assert (tmp_path / "notes" / "todo.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    slim.save(tmp_path / "empty")
    assert len(list((tmp_path / "empty").iterdir())) == 3


def test_a_score_of_later_is_saved_with_the_weights_of_later(tmp_path):
    slim = made("keywords")
    slim.save(tmp_path / "slim", score=0.75)
    assert json.loads((tmp_path / "slim" / "model.json").read_text())["score"] == 0.75
    with pytest.raises(InputError, match="nan says nothing"):
        slim.save(tmp_path / "slim", score=float("nan"))


def test_a_save_that_fails_leaves_the_old_network(tmp_path, monkeypatch):
    slim = made("keywords")
    slim.save(tmp_path / "slim")
    before = {path.name: path.read_bytes() for path in (tmp_path / "slim").iterdir()}

    def fails(*_args, **_options):
        raise OSError("no")

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_json", fails)
        with pytest.raises(OSError, match="no"):
            made("keywords", flops=0.3).save(tmp_path / "slim")
    assert {path.name: path.read_bytes() for path in (tmp_path / "slim").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["slim"]


def test_what_is_no_slim_network_of_the_plan(tmp_path):
    model = Keywords()
    channels = jstc.analyse(model, torch.randn(1, 1, 64))
    plan = channels.uniform_plan(flops=0.5)
    small = channels.slice(model, plan)
    for network in (model, nn.Sequential(small), channels.slice(model, channels.uniform_plan(flops=0.3))):
        with pytest.raises(ChannelError, match="the network is not the one that this plan makes") as caught:
            jstc.Slim.of(channels, plan, network)
        assert caught.value.details
    with pytest.raises(InputError, match="a score of nan says nothing"):
        jstc.Slim.of(channels, plan, small, score=float("nan"))
    with pytest.raises(InputError, match=r"expected 'net\.py:make'"):
        jstc.Slim.of(channels, plan, small).save(tmp_path / "slim", build="Keywords")
    assert not (tmp_path / "slim").exists()


# -- loaded by the code that it names ---------------------------------------------------------------------


def test_load_runs_the_code_that_a_folder_names_only_when_allowed(tmp_path):
    slim = made("keywords")
    name = "tests.helpers.task_networks:Keywords"
    slim.save(tmp_path / "slim", build=name)
    for allowed in (False, "os:abort"):
        with pytest.raises(ModelError, match=f"pass allow_code='{name}'"):
            jstc.load(tmp_path / "slim", allow_code=allowed)
    require_equal(slim.network, jstc.load(tmp_path / "slim", allow_code=name))
    slim.save(tmp_path / "bare")
    with pytest.raises(ModelError, match=r"does not say how its network is built; .* jstc\.rebuild"):
        jstc.load(tmp_path / "bare", allow_code=True)
    slim.save(tmp_path / "hub", build="hf:abort")
    with pytest.raises(ModelError, match="if you trust that code"):
        jstc.load(tmp_path / "hub")


def test_a_run_of_the_command_line_is_rebuilt_likewise(tmp_path):
    slim = made("keywords")
    slim.save(tmp_path / "slim")
    document = {"schema": 1, "model": {}, "plan_hash": slim.plan.hash, "attributes": {}}
    files.write_json(tmp_path / "slim" / "model.json", document)  # as `jstc slim` has it
    (tmp_path / "slim" / "plan.json").unlink()
    require_equal(slim.network, jstc.rebuild(Keywords(), tmp_path / "slim"))


def test_a_model_of_transformers_comes_back(tmp_path):
    transformers = pytest.importorskip("transformers", reason="Hugging Face's networks are tried with it")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    model = transformers.BertForMaskedLM(config).eval()
    ids = torch.randint(50, (2, 9))
    channels = jstc.analyse(model, (ids[:1],))
    plan = channels.random_plan(flops=0.6, seed=0)
    slim = jstc.Slim.of(channels, plan, channels.slice(model, plan))
    slim.save(tmp_path / "bert")
    network = jstc.rebuild(transformers.BertForMaskedLM(config), tmp_path / "bert")
    require_equal(slim.network, network)
    with torch.no_grad():
        assert torch.equal(network(ids).logits, slim.network.eval()(ids).logits)
