//! Sound GGUF files whose tensors are not those of the model, or whose weights are none.

use super::Case;
use super::file::File;

const GATE: &str = "blk.0.ffn_gate.weight";
const NORM: &str = "blk.2.attn_norm.weight";
const EMBD: &str = "token_embd.weight";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = tensors();
    cases.extend(weights());
    cases
}

fn tensors() -> Vec<Case> {
    vec![
        Case::of_model(
            "tensor missing",
            &["\"blk.2.attn_norm.weight\" is missing"],
            |f| {
                f.tensors.retain(|t| t.name != NORM.as_bytes());
            },
        ),
        Case::of_model(
            "embedding missing",
            &["\"token_embd.weight\" is missing"],
            |f| {
                f.tensors.retain(|t| t.name != EMBD.as_bytes());
            },
        ),
        Case::of_model("no tensors", &["\"token_embd.weight\" is missing"], |f| {
            f.tensors.clear()
        }),
        Case::of_model(
            "tensor renamed",
            &["\"blk.2.attn_norm.weight\" is missing"],
            |f| {
                f.tensor(NORM).name = b"blk.2.attn_nrom.weight".to_vec();
            },
        ),
        Case::of_model(
            "tensor too many",
            &["\"blk.0.extra\" is not part of the architecture"],
            |f| {
                f.push_tensor("blk.0.extra", &[1], 0, vec![0; 4]);
            },
        ),
        Case::of_model(
            "matrix on its side",
            &["has shape [512, 128], [128, 512] is due"],
            |f| {
                f.tensor(GATE).dims.swap(0, 1);
            },
        ),
        Case::of_model(
            "matrix of one dimension",
            &["has shape [65536], [128, 512] is due"],
            |f| {
                f.tensor(GATE).dims = vec![65536];
            },
        ),
        Case::of_model(
            "embedding of 511 tokens",
            &["\"token_embd.weight\" has 511 rows for 512 tokens"],
            |f| {
                f.tensor(EMBD).dims = vec![128, 511];
            },
        ),
        Case::of_model(
            "unknown weights",
            &["has type Q4_K, which is not supported"],
            |f| {
                f.tensor(GATE).ty = 12;
            },
        ),
        Case::of_model(
            "weights in tiles of a size that nobody knows",
            &[
                "\"blk.0.ffn_gate.weight\": where the weights of TL1 lie follows from tile sizes that no file holds, and \
                 BitNet.cpp has none for 512 rows of 128",
            ],
            |f| {
                f.tensor(GATE).ty = 38;
            },
        ),
        Case::of_model(
            "weights that need transformed activations",
            &["has type PTQ1_0, which is not supported: its products need a Hadamard transform"],
            |f| {
                f.tensor(GATE).ty = 143;
            },
        ),
        Case::of_model(
            "weights of a size that is none of the types with their id",
            &[
                "has type id 42, which is not supported: its size is not that of Q2_0 or Q2_0_128 or TL2_42",
            ],
            |f| {
                f.tensor(GATE).ty = 42;
            },
        ),
        Case::of_model("weights of type 2^32-1", &["has type id 4294967295"], |f| {
            f.tensor(GATE).ty = u32::MAX;
        }),
        Case::of_model(
            "norm of codes",
            &["\"blk.2.attn_norm.weight\" has type I2_S, a float is due"],
            |f| {
                f.tensor(NORM).ty = 36;
            },
        ),
        Case::of_model(
            "ternary embedding",
            &["I2_S is not supported for embeddings"],
            |f| {
                f.tensor(EMBD).ty = 36;
            },
        ),
        Case::of_model(
            "two scales",
            &["\"blk.0.ffn_gate.scale\" has shape [2], [1] is due"],
            |f| {
                f.push_tensor("blk.0.ffn_gate.scale", &[2], 0, vec![0; 8]);
            },
        ),
    ]
}

fn weights() -> Vec<Case> {
    let scale = |value: f32| {
        move |f: &mut File| {
            let data = &mut f.tensor(GATE).data;
            let at = data.len() - 32;
            data[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    };
    vec![
        Case::of_weights(
            "code 3",
            &["\"blk.0.ffn_gate.weight\": 4 of 65536 codes are 3"],
            |f| {
                f.tensor(GATE).data[100] = 0xFF;
            },
        ),
        Case::of_weights(
            "scale that is no number",
            &["\"blk.0.ffn_gate.weight\": its scale is not finite"],
            scale(f32::NAN),
        ),
        Case::of_weights(
            "infinite scale",
            &["\"blk.0.ffn_gate.weight\": its scale is not finite"],
            scale(f32::INFINITY),
        ),
        Case::of_weights(
            "norm that is no number",
            &["\"blk.2.attn_norm.weight\": 1 of 128 values are not finite"],
            |f| {
                f.tensor(NORM).data[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
            },
        ),
        Case::of_weights(
            "infinite half",
            &["\"token_embd.weight\": 1 of 65536 values are not finite"],
            |f| {
                f.tensor(EMBD).data[200..202].copy_from_slice(&[0x00, 0x7C]);
            },
        ),
        Case::of_weights(
            "brain float that is no number",
            &["\"token_embd.weight\": 2 of 65536 values"],
            |f| {
                f.tensor(EMBD).ty = 30;
                f.tensor(EMBD).data.fill(0);
                f.tensor(EMBD).data[..4].copy_from_slice(&[0xC0, 0x7F, 0x80, 0xFF]);
            },
        ),
        Case::of_weights(
            "block scale that is no number",
            &["\"token_embd.weight\": 1 of 2048 scales"],
            |f| {
                f.tensor(EMBD).ty = 8;
                f.tensor(EMBD).data = vec![0; 2048 * 34];
                f.tensor(EMBD).data[34..36].copy_from_slice(&[0x01, 0x7E]);
            },
        ),
        Case::of_weights(
            "scale beside the weights that is no number",
            &["\"blk.0.ffn_gate.scale\": 1 of 1 values"],
            |f| {
                f.push_tensor(
                    "blk.0.ffn_gate.scale",
                    &[1],
                    0,
                    f32::NAN.to_le_bytes().to_vec(),
                );
            },
        ),
    ]
}
