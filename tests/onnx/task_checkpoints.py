"""Tiny random checkpoints of the classes that write no text by one stack: encoders, pairs of stacks, images, towers.

Two layers of 32 values where the class has layers; weights are large enough that a wrong graph gives wrong numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCAB = 300


@dataclass(frozen=True)
class Tiny:
    """A class of transformers and what its config says."""

    kind: str  # BertForMaskedLM
    config: str  # BertConfig
    words: Mapping[str, Any]
    inner: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)  # configs within: BackboneConfig

    def make(self, folder: Path) -> Path:
        """The checkpoint in `folder`."""
        import torch
        import transformers

        torch.manual_seed(0)
        inner = {name: getattr(transformers, kind)(**words) for name, (kind, words) in self.inner.items()}
        config = getattr(transformers, self.config)(**self.words, **inner)
        model = getattr(transformers, self.kind)(config)
        randomize(model)
        model.save_pretrained(folder)
        return folder


def randomize(model: PreTrainedModel) -> None:
    """Weights and statistics as training leaves them: none at its start, none that hides another."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn_like(buffer) * 0.1)
            if name.endswith("running_var"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)


TEXT: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DISTIL = {"vocab_size": VOCAB, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 128}
MODERN = {**TEXT, **ENDS, "local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2}
DEBERTA = {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0}
DEBERTA2 = {
    **DEBERTA,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
}
GROUPED = {**TEXT, **ENDS, "num_key_value_heads": 2}
SMALL = {**TEXT, "embedding_size": 16}
MOBILE = {**TEXT, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}
GEMMA = {**GROUPED, "head_dim": 8, "sliding_window": 8, "use_bidirectional_attention": True}
XLM = {"vocab_size": VOCAB, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128}
REM = {**TEXT, "input_embedding_size": 16, "output_embedding_size": 32}

ENCODERS = (
    *(Tiny(f"Bert{kind}", "BertConfig", TEXT) for kind in ("Model", "ForMaskedLM", "ForSequenceClassification")),
    *(Tiny(f"Bert{kind}", "BertConfig", TEXT) for kind in ("ForTokenClassification", "ForQuestionAnswering")),
    *(Tiny(f"DistilBert{kind}", "DistilBertConfig", DISTIL) for kind in ("Model", "ForMaskedLM")),
    Tiny("DistilBertForSequenceClassification", "DistilBertConfig", DISTIL),
    *(Tiny(f"Roberta{kind}", "RobertaConfig", TEXT) for kind in ("Model", "ForMaskedLM", "ForSequenceClassification")),
    *(Tiny(f"XLMRoberta{kind}", "XLMRobertaConfig", TEXT) for kind in ("Model", "ForSequenceClassification")),
    Tiny("XLMRobertaForTokenClassification", "XLMRobertaConfig", TEXT),
    Tiny("CamembertForMaskedLM", "CamembertConfig", TEXT),
    *(Tiny(f"ModernBert{kind}", "ModernBertConfig", MODERN) for kind in ("Model", "ForMaskedLM")),
    Tiny("ModernBertForSequenceClassification", "ModernBertConfig", MODERN),
    Tiny("NomicBertModel", "NomicBertConfig", TEXT),
    *(Tiny(f"EuroBert{kind}", "EuroBertConfig", GROUPED) for kind in ("Model", "ForMaskedLM")),
    *(Tiny(f"MPNet{kind}", "MPNetConfig", TEXT) for kind in ("Model", "ForMaskedLM")),
    *(Tiny(f"DebertaV2{kind}", "DebertaV2Config", DEBERTA2) for kind in ("Model", "ForSequenceClassification")),
    Tiny("DebertaModel", "DebertaConfig", {**DEBERTA, "max_relative_positions": 32}),
    *(Tiny(f"Electra{kind}", "ElectraConfig", SMALL) for kind in ("Model", "ForSequenceClassification")),
    *(Tiny(f"Albert{kind}", "AlbertConfig", SMALL) for kind in ("Model", "ForMaskedLM")),
    Tiny("ErnieModel", "ErnieConfig", TEXT),
    Tiny("RemBertModel", "RemBertConfig", REM),
    Tiny("MegatronBertModel", "MegatronBertConfig", TEXT),
    Tiny("MobileBertModel", "MobileBertConfig", MOBILE),
    Tiny("RoFormerModel", "RoFormerConfig", {**TEXT, "embedding_size": 32}),
    Tiny("SqueezeBertModel", "SqueezeBertConfig", {**TEXT, "embedding_size": 32}),
    Tiny("ConvBertModel", "ConvBertConfig", TEXT),
    Tiny("Data2VecTextModel", "Data2VecTextConfig", TEXT),
    Tiny("JinaEmbeddingsV3Model", "JinaEmbeddingsV3Config", TEXT),
    Tiny("XLMModel", "XLMConfig", XLM),
    Tiny("Gemma3TextModel", "Gemma3TextConfig", GEMMA),
    Tiny("LlamaForSequenceClassification", "LlamaConfig", GROUPED),
    Tiny("Qwen2ForSequenceClassification", "Qwen2Config", GROUPED),
)

STACKS: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
WHISPER = {
    **{name: value for name, value in STACKS.items() if name != "max_position_embeddings"},
    "num_mel_bins": 8,
    "max_source_positions": 30,
    "max_target_positions": 64,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
}
PAIRS = (
    Tiny("T5ForConditionalGeneration", "T5Config", {**T5, "feed_forward_proj": "gated-gelu"}),
    Tiny("MT5ForConditionalGeneration", "MT5Config", T5),
    Tiny("UMT5ForConditionalGeneration", "UMT5Config", T5),
    Tiny("BartForConditionalGeneration", "BartConfig", STACKS),
    Tiny("MBartForConditionalGeneration", "MBartConfig", STACKS),
    Tiny("MarianMTModel", "MarianConfig", STACKS),
    Tiny("M2M100ForConditionalGeneration", "M2M100Config", STACKS),
    Tiny("PegasusForConditionalGeneration", "PegasusConfig", STACKS),
    Tiny("BlenderbotForConditionalGeneration", "BlenderbotConfig", STACKS),
    Tiny("WhisperForConditionalGeneration", "WhisperConfig", WHISPER),
)

VIT: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}
SEGFORMER = {
    "depths": [1, 1],
    "num_encoder_blocks": 2,
    "sr_ratios": [4, 2],
    "hidden_sizes": [16, 32],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 32,
}
DETR = {
    **{name: value for name, value in STACKS.items() if name.startswith(("encoder", "decoder_l", "decoder_a"))},
    "d_model": 32,
    "decoder_ffn_dim": 64,
    "num_queries": 5,
    "use_timm_backbone": False,
}
DEEPER = {**VIT, "num_hidden_layers": 4}
DEPTH = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16}
RT_DETR = {
    "encoder_in_channels": [16, 16, 16],
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 64,
    "encoder_attention_heads": 4,
    "feat_strides": [8, 16, 32],
    "encoder_layers": 1,
    "d_model": 32,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 64,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_n_points": 2,
    "num_queries": 5,
    "num_feature_levels": 3,
    "anchor_image_size": [64, 64],
    "eval_size": [64, 64],
    "num_denoising": 0,
}
RT_BACKBONE = {
    "embedding_size": 8,
    "hidden_sizes": [16, 16, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
VISION = (
    *(Tiny(f"ViT{kind}", "ViTConfig", VIT) for kind in ("Model", "ForImageClassification")),
    Tiny("DeiTForImageClassification", "DeiTConfig", VIT),
    Tiny("BeitForImageClassification", "BeitConfig", VIT),
    *(Tiny(f"Dinov2{kind}", "Dinov2Config", VIT) for kind in ("Model", "ForImageClassification")),
    Tiny("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", VIT),
    Tiny("DINOv3ViTModel", "DINOv3ViTConfig", VIT),
    Tiny("ConvNextForImageClassification", "ConvNextConfig", CONVNEXT),
    Tiny("ConvNextV2ForImageClassification", "ConvNextV2Config", CONVNEXT),
    Tiny("ResNetForImageClassification", "ResNetConfig", RESNET),
    Tiny("RegNetForImageClassification", "RegNetConfig", {**RESNET, "groups_width": 4}),
    Tiny("MobileNetV2ForImageClassification", "MobileNetV2Config", {"depth_multiplier": 0.25, "image_size": 64}),
    Tiny("SwinForImageClassification", "SwinConfig", SWIN),
    Tiny("Swinv2ForImageClassification", "Swinv2Config", SWIN),
    Tiny("SegformerForSemanticSegmentation", "SegformerConfig", SEGFORMER),
    Tiny("DPTForDepthEstimation", "DPTConfig", {**DEEPER, **DEPTH, "backbone_out_indices": [0, 1, 2, 3]}),
    Tiny("YolosForObjectDetection", "YolosConfig", {**VIT, "num_detection_tokens": 5, "image_size": [32, 48]}),
    Tiny(
        "DetrForObjectDetection",
        "DetrConfig",
        DETR,
        {"backbone_config": ("ResNetConfig", {**RESNET, "out_features": ["stage2"]})},
    ),
    Tiny("RTDetrForObjectDetection", "RTDetrConfig", RT_DETR, {"backbone_config": ("RTDetrResNetConfig", RT_BACKBONE)}),
    Tiny(
        "DepthAnythingForDepthEstimation",
        "DepthAnythingConfig",
        {**DEPTH, "patch_size": 8, "reassemble_hidden_size": 32, "head_hidden_size": 8},
        {
            "backbone_config": (
                "Dinov2Config",
                {**DEEPER, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False, "apply_layernorm": True},
            )
        },
    ),
)

TOWER = {name: value for name, value in TEXT.items() if name != "max_position_embeddings"} | ENDS
BOTH = {"text_config": {**TOWER, "max_position_embeddings": 32}, "vision_config": VIT}
SAM = {
    "vision_config": {
        "hidden_size": 32,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        "mlp_dim": 64,
        "window_size": 3,
        "global_attn_indexes": [1],
        "num_pos_feats": 8,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
    "mask_decoder_config": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_dim": 32,
        "iou_head_hidden_dim": 16,
    },
}
TOWERS = (
    Tiny("CLIPModel", "CLIPConfig", {**BOTH, "projection_dim": 16}),
    Tiny("SiglipModel", "SiglipConfig", BOTH),
    Tiny("SamModel", "SamConfig", SAM),
)
CASES = {tiny.kind: tiny for tiny in (*ENCODERS, *PAIRS, *VISION, *TOWERS)}
