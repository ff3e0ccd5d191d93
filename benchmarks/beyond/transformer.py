"""Networks of transformers, small and with random weights: images, texts, sounds, detection, segmentation."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.beyond.case import Case, Inputs, Make, classes, images, noise, token_ids

__all__ = ["TRANSFORMERS"]

_ENCODER: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128,
}  # fmt: skip
_TEXT = {"vocab_size": 120, "max_position_embeddings": 32}


def _of(
    kind: str,
    config: str,
    inputs: Inputs,
    targets: Callable[[], Mapping[str, Any]],
    outputs: Callable[[Any], Any] | None = None,
    **settings: Any,
) -> Make:
    def make() -> Case:
        transformers = importlib.import_module("transformers")
        network: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**settings))

        def loss(net: nn.Module) -> Tensor:
            torch.manual_seed(0)
            found: Tensor = net(*inputs(2), **targets()).loss
            return found

        return Case(network, inputs, loss, outputs=outputs)

    return make


def _labels() -> dict[str, Tensor]:
    return {"labels": classes(10, 2)}


def _pixels() -> dict[str, Tensor]:
    return {"labels": classes(10, 2, 64, 64)}


def _objects() -> dict[str, Any]:
    """Two objects in each of two images: centres and sizes, relative to the image."""
    boxes = torch.tensor([[0.4, 0.5, 0.3, 0.4], [0.6, 0.5, 0.4, 0.3]])
    return {"labels": [{"class_labels": torch.tensor([1, 2]), "boxes": boxes.clone()} for _ in range(2)]}


def _regions() -> dict[str, Any]:
    """Masks of two classes in each of two images."""
    inside = torch.rand(2, 2, 128, 128, generator=torch.Generator().manual_seed(9)) > 0.5
    return {"mask_labels": list(inside.float()), "class_labels": [torch.tensor([1, 2]) for _ in range(2)]}


def _classifies(kind: str, size: int = 64, *, config: str | None = None, **settings: Any) -> Make:
    return _of(
        f"{kind}ForImageClassification",
        config or f"{kind}Config",
        images(size),
        _labels,
        num_labels=10,
        **settings,
    )


def _reads(kind: str, **settings: Any) -> Make:
    return _of(
        f"{kind}ForSequenceClassification",
        f"{kind}Config",
        token_ids(16, 120),
        _labels,
        num_labels=10,
        **settings,
    )


def _detr() -> Case:
    transformers = importlib.import_module("transformers")
    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 48, 64, 96], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    return _of(
        "DetrForObjectDetection", "DetrConfig", images(128), _objects,
        lambda found: (found.logits, found.pred_boxes),
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone,
        d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=128, decoder_ffn_dim=128, num_queries=10, num_labels=5,
    )()  # fmt: skip


def _mask2former() -> Case:
    transformers = importlib.import_module("transformers")
    backbone = transformers.SwinConfig(
        image_size=128, patch_size=4, embed_dim=24, depths=[1, 1, 1, 1], num_heads=[2, 2, 4, 4],
        window_size=4, out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    return _of(
        "Mask2FormerForUniversalSegmentation", "Mask2FormerConfig", images(128), _regions,
        lambda found: (found.class_queries_logits, found.masks_queries_logits),
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_layers=1,
        encoder_feedforward_dim=64, decoder_layers=2, num_attention_heads=4, dim_feedforward=64,
        num_queries=10, train_num_points=64, num_labels=5,
    )()  # fmt: skip


def _warm(make: Make) -> Make:
    """The network after it has run once: some keep what they have made for the first image."""

    def made() -> Case:
        case = make()
        with torch.no_grad():
            case.network.eval()(*case.inputs(1))
        return case

    return made


_SEGFORMER = _of(
    "SegformerForSemanticSegmentation", "SegformerConfig", images(64), _pixels,
    depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 96], decoder_hidden_size=64, num_labels=10,
)  # fmt: skip
_VIT = {**_ENCODER, "image_size": 64, "patch_size": 8}

TRANSFORMERS: dict[str, Make] = {
    "ResNet": _classifies("ResNet", embedding_size=16, hidden_sizes=[32, 64, 96], depths=[1, 1, 2]),
    "MobileNetV2": _classifies("MobileNetV2", image_size=64),
    "ConvNextV2": _classifies("ConvNextV2", hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 2, 1]),
    "ViT": _classifies("ViT", **_VIT),
    "ViT, eager attention": _classifies("ViT", **_VIT, attn_implementation="eager"),
    "Swin": _classifies(
        "Swin", image_size=64, patch_size=4, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4
    ),
    "DINOv2": _classifies(
        "Dinov2", 56, image_size=56, patch_size=8, hidden_size=64, num_hidden_layers=3, num_attention_heads=4
    ),
    "SegFormer": _SEGFORMER,
    "SegFormer, after a forward": _warm(_SEGFORMER),
    "DETR": _detr,
    "YOLOS": _of(
        "YolosForObjectDetection", "YolosConfig", images(64), _objects,
        lambda found: (found.logits, found.pred_boxes),
        **{**_VIT, "image_size": [64, 64]}, num_detection_tokens=10, num_labels=5,
    ),
    "Mask2Former": _mask2former,
    "BERT": _reads("Bert", **_ENCODER, **_TEXT),
    "BERT, eager attention": _reads("Bert", **_ENCODER, **_TEXT, attn_implementation="eager"),
    "DistilBERT": _reads("DistilBert", dim=64, n_layers=3, n_heads=4, hidden_dim=128, **_TEXT),
    "GPT-2": _of(
        "GPT2LMHeadModel", "GPT2Config", token_ids(16, 120), lambda: {"labels": classes(120, 2, 16)},
        lambda found: found.logits,
        n_embd=64, n_layer=3, n_head=4, n_positions=32, vocab_size=120, use_cache=False,
    ),
    "Whisper, encoder": _of(
        "WhisperForAudioClassification", "WhisperConfig", noise(80, 200), _labels,
        d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536, decoder_layers=1,
        max_source_positions=100, num_labels=10, classifier_proj_size=64,
    ),
    "wav2vec 2.0": _of(
        "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", noise(4000), _labels,
        **_ENCODER, conv_dim=[32] * 3, conv_kernel=[10, 3, 3], conv_stride=[5, 4, 4],
        num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        classifier_proj_size=32, num_labels=10, apply_spec_augment=False,
    ),
}  # fmt: skip
