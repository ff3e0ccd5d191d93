"""Attention layers that can lose heads: they compute what torch's and torchvision's own do, whole and cut."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from jstc.channels import analyse
from jstc.channels.cutting import attention
from jstc.channels.cutting.attention import adapt
from jstc.channels.cutting.slicing import rebuild
from jstc.errors import ChannelError
from jstc.plan import Plan

WIDTH, HEADS = 24, 3


def randomised(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    return model.double().eval()


def self_attention(*, batch_first=True, **settings):
    return randomised(nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first, **settings))


def tokens(batch=2, length=5, width=WIDTH):
    return torch.randn(batch, length, width, dtype=torch.float64)


Q, K = tokens(), tokens(length=7)
HIDDEN = torch.tensor([[False] * 6 + [True], [False] * 4 + [True] * 3])
SCORES = torch.randn(5, 7, dtype=torch.float64)
CALLS = {
    "itself": ((Q, Q, Q), {}),
    "another": ((Q, K, K), {}),
    "three": ((Q, K, K + 1), {}),
    "added mask": ((Q, K, K), {"attn_mask": SCORES}),
    "boolean mask": ((Q, K, K), {"attn_mask": SCORES > 1}),
    "a mask for each head": ((Q, K, K), {"attn_mask": torch.randn(2 * HEADS, 5, 7, dtype=torch.float64)}),
    "padding": ((Q, K, K), {"key_padding_mask": HIDDEN}),
    "both": ((Q, K, K), {"attn_mask": SCORES, "key_padding_mask": HIDDEN}),
    "each head's weights": ((Q, K, K), {"average_attn_weights": False}),
    "no batch": ((Q[0], K[0], K[0]), {}),
}


@pytest.mark.parametrize("weights", [True, False], ids=["weights", "no weights"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
def test_it_computes_what_torch_does(call, weights):
    inputs, settings = CALLS[call]
    layer = self_attention()
    expected = layer(*inputs, need_weights=weights, **settings)
    adapt(layer)
    assert type(layer) is not nn.MultiheadAttention
    found = layer(*inputs, need_weights=weights, **settings)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "settings", [{"batch_first": False}, {"bias": False}, {"kdim": 10, "vdim": 12}, {"dropout": 0.5}], ids=str
)
def test_forms_of_the_layer(settings):
    layer = self_attention(**settings)
    key = tokens(length=7, width=settings.get("kdim", WIDTH))
    value = tokens(length=7, width=settings.get("vdim", WIDTH))
    inputs = [Q, key, value]
    if not layer.batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    expected = layer(*inputs)
    adapt(layer)
    torch.testing.assert_close(layer(*inputs), expected)


def test_a_layer_that_adds_keys_of_its_own_is_left_alone():
    layer = self_attention(add_bias_kv=True)
    adapt(layer)
    assert type(layer) is nn.MultiheadAttention


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.into = nn.Linear(6, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 20, batch_first=True)
        self.out = nn.Linear(WIDTH, 4)

    def forward(self, x):
        return self.out(self.layer(self.into(x))).mean(1)


def test_heads_hidden_and_embedding_of_torchs_encoder_layer():
    model = randomised(Encoder())
    x = tokens(width=6)
    channels = analyse(model, x[:1])
    assert sorted(group.width for group in channels.groups) == [HEADS, 20, WIDTH]
    plan = Plan(
        {g.name: tuple(range(g.width) if g.width == WIDTH else range(1, g.width)) for g in channels.groups},
        channels.widths,
    )
    small, masked = channels.slice(model, plan), copy.deepcopy(model)
    channels.mask(masked, plan)
    assert small.layer.self_attn.num_heads == HEADS - 1
    assert type(model.layer.self_attn) is nn.MultiheadAttention
    with torch.inference_mode():  # torch's fused layer would run here, if it were let
        torch.testing.assert_close(small(x), masked(x))
        assert not torch.allclose(small(x), model(x))
    small.train()(x).sum().backward()


def vision(name):
    if name == "vit":
        from torchvision.models.vision_transformer import VisionTransformer

        return VisionTransformer(16, 8, 1, 3, WIDTH, 20, num_classes=5)
    if name == "maxvit":
        from torchvision.models.maxvit import MaxVit

        return MaxVit((32, 32), 8, 4, [8], [1], 4, 0.0, num_classes=5)
    from torchvision.models.swin_transformer import (
        PatchMergingV2,
        SwinTransformer,
        SwinTransformerBlockV2,
    )

    v2 = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if name == "swin_v2" else {}
    return SwinTransformer([4, 4], 8, [2, 2], [2, 4], [4, 4], num_classes=5, **v2)


SIDES = {"vit": 16, "maxvit": 32, "swin": 40, "swin_v2": 40}  # 40: windows are padded and shifted


@pytest.mark.parametrize("name", SIDES)
def test_torchvisions_transformers(name):
    model = randomised(vision(name))
    x = torch.randn(2, 3, SIDES[name], SIDES[name], dtype=torch.float64)
    with torch.inference_mode():
        whole = model(x)
    adapted = copy.deepcopy(model)
    adapt(adapted)
    kinds = {type(m).__name__ for m in adapted.modules() if hasattr(type(m), "_jstc_adapted")}
    assert kinds
    with torch.inference_mode():
        torch.testing.assert_close(adapted(x), whole, rtol=1e-9, atol=1e-9)
    channels = analyse(model, x[:1])
    heads = [
        g
        for g in channels.groups
        if any("attn.qkv" in x or "to_qkv" in x or "attention" in x for x in g.layers)
    ]
    assert any(group.width in (2, 3, 4) for group in heads)
    plan = channels.random_plan(flops=0.6, seed=1)
    kept = {
        n: k if n not in channels.inexact else tuple(range(channels.widths[n])) for n, k in plan.kept.items()
    }
    plan = Plan(kept, channels.widths)
    assert plan != channels.full_plan
    small, masked = channels.slice(model, plan), copy.deepcopy(model)
    channels.mask(masked, plan)
    with torch.inference_mode():
        torch.testing.assert_close(small(x), masked(x), rtol=1e-9, atol=1e-9)
        assert not torch.allclose(masked(x), whole)


class Own(nn.Module):
    """Attention with its sizes as attributes, one of which has the size of another."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim, self.inner = 4, 4, 16
        self.qkv, self.proj = nn.Linear(6, 48), nn.Linear(16, 5)

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        out = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(out.transpose(1, 2).reshape(n, length, self.inner))


def test_attributes_follow_the_heads():
    model, x = randomised(Own()), tokens(width=6)
    channels = analyse(model, x[:1])
    assert list(channels.widths.values()) == [4]
    plan = Plan(dict.fromkeys(channels.widths, (0, 2, 3)), channels.widths)
    assert channels.attributes(plan) == {"num_heads": 3, "inner": 12}
    small: Any = channels.slice(model, plan)
    masked = copy.deepcopy(model)
    channels.mask(masked, plan)
    assert (small.num_heads, small.head_dim, small.inner) == (3, 4, 12)
    assert (model.num_heads, model.inner) == (4, 16)
    with torch.inference_mode():
        torch.testing.assert_close(small(x), masked(x))


@pytest.mark.parametrize(
    "attributes",
    [{"num_heads": 5}, {"num_heads": 0}, {"num_heads": True}, {"nothing": 1}, {"qkv.nothing": 1},
     {"forward": 1}, {"training": 1}, {"inner[0]": 3}, {"num_heads": "3"}, {"a.b.c": 1}],
    ids=str,
)  # fmt: skip
def test_attributes_from_a_file_only_make_numbers_smaller(attributes):
    model = Own()
    tensors = dict(model.state_dict())
    with pytest.raises(ChannelError, match="attribute"):
        rebuild(model, tensors, attributes)


def test_a_pickled_layer_is_read_where_none_has_been_adapted(monkeypatch):
    layer = self_attention()
    adapt(layer)
    data = pickle.dumps(layer)
    assert type(layer).__module__ == attention.__name__ == "jstc.channels.cutting.attention"
    monkeypatch.setattr(attention, "_subclasses", {})  # as in a process that has just started
    again = pickle.loads(data)
    assert type(again) is not type(layer) and type(again).__name__ == "AdaptedMultiheadAttention"
    assert torch.equal(again(Q, Q, Q)[0], layer(Q, Q, Q)[0])
