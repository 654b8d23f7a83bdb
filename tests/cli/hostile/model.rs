//! Sound GGUF files whose hyperparameters make no model.

use super::file::{array, f32, string, typed, u32, u64};
use super::{Case, Says};

/// A case in which one key of the architecture has another value.
fn with(name: &'static str, says: Says, key: &'static str, value: Vec<u8>) -> Case {
    Case::of_model(name, says, move |f| {
        f.set(&format!("bitnet-b1.58.{key}"), value)
    })
}

pub(super) fn cases() -> Vec<Case> {
    [sizes(), heads(), rotation()]
        .into_iter()
        .flatten()
        .collect()
}

fn sizes() -> Vec<Case> {
    vec![
        Case::of_model(
            "no architecture",
            &["\"general.architecture\" (string) is missing"],
            |f| {
                f.remove("general.architecture");
            },
        ),
        Case::of_model(
            "architecture of no name",
            &["unknown architecture \"\""],
            |f| {
                f.set("general.architecture", string(b""));
            },
        ),
        Case::of_model(
            "unknown architecture",
            &["unknown architecture \"bitnet-b9\""],
            |f| {
                f.set("general.architecture", string(b"bitnet-b9"));
            },
        ),
        Case::of_model(
            "architecture 7",
            &["\"general.architecture\" has type uint32, not string"],
            |f| {
                f.set("general.architecture", u32(7));
            },
        ),
        with("no layers", &["block_count is 0"], "block_count", u32(0)),
        with(
            "a layer too few",
            &["\"blk.5.attn_norm.weight\" is not part"],
            "block_count",
            u32(5),
        ),
        with(
            "a layer too many",
            &["\"blk.6.attn_norm.weight\" is missing"],
            "block_count",
            u32(7),
        ),
        with(
            "2^31 layers",
            &["\"blk.6.attn_norm.weight\" is missing"],
            "block_count",
            u32(1 << 31),
        ),
        with(
            "6 layers in 64 bits",
            &["block_count\" has type uint64, not uint32"],
            "block_count",
            u64(6),
        ),
        Case::of_model(
            "no count of layers",
            &["bitnet-b1.58.block_count\" (uint32) is missing"],
            |f| {
                f.remove("bitnet-b1.58.block_count");
            },
        ),
        Case::of_model(
            "metadata arrays where numbers are due",
            &["block_count\" has type array of uint32, not uint32"],
            |f| {
                f.set(
                    "bitnet-b1.58.block_count",
                    array(4, 1, &6_u32.to_le_bytes()),
                );
            },
        ),
        Case::of_model(
            "a byte where a number is due",
            &["head_count\" has type uint8, not uint32"],
            |f| {
                f.set("bitnet-b1.58.attention.head_count", typed(0, &[4]));
            },
        ),
        with(
            "width of 0",
            &["embedding_length is 0"],
            "embedding_length",
            u32(0),
        ),
        with(
            "width of 256",
            &["\"token_embd.weight\" has shape [128, 512], [256, 512]"],
            "embedding_length",
            u32(256),
        ),
        with(
            "width of 2^32-4",
            &["[4294967292, 512] is due"],
            "embedding_length",
            u32(u32::MAX - 3),
        ),
        with(
            "feed-forward of 0",
            &["feed_forward_length is 0"],
            "feed_forward_length",
            u32(0),
        ),
        with(
            "feed-forward of 513",
            &["ffn_gate.weight\" has shape [128, 512], [128, 513]"],
            "feed_forward_length",
            u32(513),
        ),
        with(
            "context of 0",
            &["context_length is 0"],
            "context_length",
            u32(0),
        ),
        with(
            "context of 2^40",
            &["context_length\" has type uint64, not uint32"],
            "context_length",
            u64(1 << 40),
        ),
        with(
            "8 experts",
            &["mixture of experts is not supported"],
            "expert_count",
            u32(8),
        ),
        with(
            "epsilon of 0",
            &["layer_norm_rms_epsilon is 0, not a positive"],
            "attention.layer_norm_rms_epsilon",
            f32(0.0),
        ),
        with(
            "negative epsilon",
            &["layer_norm_rms_epsilon is -1,"],
            "attention.layer_norm_rms_epsilon",
            f32(-1.0),
        ),
        with(
            "epsilon that is no number",
            &["layer_norm_rms_epsilon is NaN"],
            "attention.layer_norm_rms_epsilon",
            f32(f32::NAN),
        ),
        with(
            "infinite epsilon",
            &["layer_norm_rms_epsilon is inf"],
            "attention.layer_norm_rms_epsilon",
            f32(f32::INFINITY),
        ),
    ]
}

fn heads() -> Vec<Case> {
    vec![
        with(
            "no heads",
            &["attention.head_count is 0"],
            "attention.head_count",
            u32(0),
        ),
        with(
            "6 heads of 128 values",
            &["6 heads do not divide 128 values"],
            "attention.head_count",
            u32(6),
        ),
        with(
            "2^31 heads",
            &["heads do not divide 128 values"],
            "attention.head_count",
            u32(1 << 31),
        ),
        with(
            "no key heads",
            &["attention.head_count_kv is 0"],
            "attention.head_count_kv",
            u32(0),
        ),
        with(
            "3 key heads",
            &["4 heads cannot share 3 key/value heads"],
            "attention.head_count_kv",
            u32(3),
        ),
        with(
            "8 key heads",
            &["4 heads cannot share 8 key/value heads"],
            "attention.head_count_kv",
            u32(8),
        ),
        with(
            "heads of 0 values",
            &["attention.key_length is 0"],
            "attention.key_length",
            u32(0),
        ),
        with(
            "heads of 64 values",
            &["attn_q.weight\" has shape [128, 128], [128, 256] is due"],
            "attention.key_length",
            u32(64),
        ),
        with(
            "heads of 2^32-1 values",
            &["[128, 17179869180] is due"],
            "attention.key_length",
            u32(u32::MAX),
        ),
        with(
            "other values than keys",
            &["attention.value_length: other than the key length"],
            "attention.value_length",
            u32(16),
        ),
    ]
}

fn rotation() -> Vec<Case> {
    vec![
        Case::of_model(
            "heads of 33 values",
            &["rope.dimension_count: 33 of 33"],
            |f| {
                f.set("bitnet-b1.58.attention.key_length", u32(33));
                f.remove("bitnet-b1.58.rope.dimension_count");
            },
        ),
        with(
            "rotation of 31",
            &["rope.dimension_count: 31 of 32"],
            "rope.dimension_count",
            u32(31),
        ),
        with(
            "rotation of 64",
            &["rope.dimension_count: 64 of 32"],
            "rope.dimension_count",
            u32(64),
        ),
        with(
            "rotation of 0",
            &["rope.dimension_count is 0"],
            "rope.dimension_count",
            u32(0),
        ),
        with(
            "rotation of 2^32-2",
            &["4294967294 of 32"],
            "rope.dimension_count",
            u32(u32::MAX - 1),
        ),
        with(
            "base of 0",
            &["rope.freq_base is 0, not a positive"],
            "rope.freq_base",
            f32(0.0),
        ),
        with(
            "negative base",
            &["rope.freq_base is -10000,"],
            "rope.freq_base",
            f32(-1e4),
        ),
        with(
            "base that is no number",
            &["rope.freq_base is NaN"],
            "rope.freq_base",
            f32(f32::NAN),
        ),
        with(
            "infinite base",
            &["rope.freq_base is inf"],
            "rope.freq_base",
            f32(f32::INFINITY),
        ),
        with(
            "scaling that is no number",
            &["rope.scaling.factor is NaN"],
            "rope.scaling.factor",
            f32(f32::NAN),
        ),
        with(
            "negative scaling",
            &["rope.scale_linear is -2,"],
            "rope.scale_linear",
            f32(-2.0),
        ),
        with(
            "scaling by next to nothing",
            &["rope.scaling.factor is inf"],
            "rope.scaling.factor",
            f32(1e-45),
        ),
        with(
            "unknown scaling",
            &["rope.scaling.type: \"longrope\" is not supported"],
            "rope.scaling.type",
            string(b"longrope"),
        ),
        Case::of_model(
            "factor of 0",
            &["\"rope_freqs.weight\" divides angles by 0"],
            |f| {
                f.push_tensor("rope_freqs.weight", &[16], 0, vec![0; 64]);
            },
        ),
        Case::of_model(
            "too few factors",
            &["\"rope_freqs.weight\" has shape [8], [16] is due"],
            |f| {
                f.push_tensor("rope_freqs.weight", &[8], 0, vec![1; 32]);
            },
        ),
    ]
}
