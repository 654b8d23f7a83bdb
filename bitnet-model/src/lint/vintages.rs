//! The lines of BitNet.cpp and llama.cpp that people have, and what each takes the same numbers and names for. Read in
//! their sources: `llama.h`, `ggml.h`, the graph builders, and what the vocabulary's loader knows.

use crate::Architecture::{self, Bitnet, Bitnet25, BitnetB158, Llama, Qwen3};
use crate::activation::Activation::{self, Relu2, Silu};

/// A line of engines that reads files in its own way.
pub(super) struct Vintage {
    pub name: &'static str,
    /// What its graphs compute on the gate, by architecture: none of them reads the file's key for these.
    pub architectures: &'static [(Architecture, Activation)],
    /// `general.file_type` beyond [`FILE_TYPES`]: the type of most matrices.
    file_types: &'static [(u32, &'static str)],
    /// Ids of tensor types beyond [`TENSOR_TYPES`].
    tensor_types: &'static [(u32, &'static str)],
    /// Values of `tokenizer.ggml.pre` beyond [`PRE_TOKENIZERS`].
    pre_tokenizers: &'static [&'static str],
    /// Whether it multiplies by norm weights in F16; the others abort where they should.
    pub f16_norms: bool,
}

pub(super) const VINTAGES: &[Vintage] = &[
    Vintage {
        name: "BitNet.cpp 2024-11",
        architectures: &[(Bitnet, Silu), (Llama, Silu)],
        file_types: PINS_FILE_TYPES,
        tensor_types: PINS_TENSOR_TYPES,
        pre_tokenizers: &[],
        f16_norms: false,
    },
    Vintage {
        name: "BitNet.cpp 2026-01",
        architectures: &[
            (Bitnet, Silu),
            (Bitnet25, Relu2),
            (BitnetB158, Relu2),
            (Llama, Silu),
        ],
        file_types: PINS_FILE_TYPES,
        tensor_types: PINS_TENSOR_TYPES,
        pre_tokenizers: &["falcon_e"],
        f16_norms: false,
    },
    // As published: one graph for both. Its converter still writes 40 for I2_S.
    Vintage {
        name: "BitNet.cpp 2026-07",
        architectures: &[
            (Bitnet, Silu),
            (BitnetB158, Silu),
            (Llama, Silu),
            (Qwen3, Silu),
        ],
        file_types: &[
            (38, "MXFP4"),
            (39, "NVFP4"),
            (40, "Q1_0"),
            (41, "I2_S"),
            (42, "TL1"),
            (43, "TL2"),
        ],
        tensor_types: &[
            (36, "I2_S"),
            (37, "I8_S"),
            (38, "TL1"),
            (39, "MXFP4"),
            (40, "NVFP4"),
            (41, "Q1_0"),
            (42, "TL2"),
        ],
        pre_tokenizers: NEWER_PRE_TOKENIZERS,
        f16_norms: true,
    },
    Vintage {
        name: "llama.cpp",
        architectures: &[(Bitnet, Silu), (Llama, Silu), (Qwen3, Silu)],
        file_types: &[(38, "MXFP4"), (39, "NVFP4"), (40, "Q1_0"), (41, "Q2_0")],
        tensor_types: &[(39, "MXFP4"), (40, "NVFP4"), (41, "Q1_0"), (42, "Q2_0")],
        pre_tokenizers: NEWER_PRE_TOKENIZERS,
        f16_norms: false,
    },
];

impl Vintage {
    /// The type that a file of this `general.file_type` is made of.
    pub fn file_type(&self, id: u32) -> Option<&'static str> {
        named(FILE_TYPES, id).or_else(|| named(self.file_types, id))
    }

    /// The tensor type with this id.
    pub fn tensor_type(&self, id: u32) -> Option<&'static str> {
        named(TENSOR_TYPES, id).or_else(|| named(self.tensor_types, id))
    }

    /// Whether it loads a vocabulary with this `tokenizer.ggml.pre`.
    pub fn knows_pre_tokenizer(&self, name: &str) -> bool {
        PRE_TOKENIZERS.contains(&name) || self.pre_tokenizers.contains(&name)
    }

    /// What it computes on the gate, if it knows the architecture.
    pub fn activation(&self, architecture: Architecture) -> Option<Activation> {
        let mut all = self.architectures.iter();
        all.find(|(of, _)| *of == architecture)
            .map(|(_, activation)| *activation)
    }
}

fn named(table: &[(u32, &'static str)], id: u32) -> Option<&'static str> {
    table
        .iter()
        .find(|(of, _)| *of == id)
        .map(|(_, name)| *name)
}

/// `general.file_type` where all agree, but for those of which no one tensor type is typical.
const FILE_TYPES: &[(u32, &str)] = &[
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q3_K"),
    (13, "Q3_K"),
    (14, "Q4_K"),
    (15, "Q4_K"),
    (16, "Q5_K"),
    (17, "Q5_K"),
    (18, "Q6_K"),
    (32, "BF16"),
    (36, "TQ1_0"),
    (37, "TQ2_0"),
];

/// Whether it is one of those, or of types that were withdrawn.
pub(super) fn is_of_several_types(id: u32) -> bool {
    matches!(id, 4..=6 | 19..=31 | 33..=35)
}

const PINS_FILE_TYPES: &[(u32, &str)] = &[(38, "TL1"), (39, "TL2"), (40, "I2_S")];

/// Ids of tensor types where all agree.
const TENSOR_TYPES: &[(u32, &str)] = &[
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
];

const PINS_TENSOR_TYPES: &[(u32, &str)] = &[
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "I2_S"),
    (37, "I8_S"),
    (38, "TL1"),
    (39, "TL2"),
];

/// A size in bytes by columns and rows, where the shape has one.
pub(super) type Size = fn(u64, u64) -> Option<u64>;

/// How large matrices of a type are of which the id does not tell everything.
pub(super) const SIZES: &[(&str, &str, Size)] = &[
    ("TL2", "TL2", tl2),
    ("MXFP4", "MXFP4", |columns, rows| {
        blocks(columns, rows, 32, 17)
    }),
    ("NVFP4", "NVFP4", |columns, rows| {
        blocks(columns, rows, 64, 36)
    }),
    ("Q1_0", "Q1_0", |columns, rows| {
        blocks(columns, rows, 128, 18)
    }),
    ("Q2_0", "Q2_0 in blocks of 64", |columns, rows| {
        blocks(columns, rows, 64, 18)
    }),
    // The first files of the type, under the same id.
    ("Q2_0", "Q2_0 in blocks of 128", |columns, rows| {
        blocks(columns, rows, 128, 34)
    }),
];

fn blocks(columns: u64, rows: u64, len: u64, bytes: u64) -> Option<u64> {
    let whole = columns.is_multiple_of(len);
    (columns / len)
        .checked_mul(bytes)?
        .checked_mul(rows)
        .filter(|_| whole)
}

/// Three weights in five bits but for the last 256 of a row, two in four bits, padded to 32 bytes, and 32 more.
fn tl2(columns: u64, rows: u64) -> Option<u64> {
    let threes = columns.checked_sub(256)?.checked_mul(rows)? / 3;
    let bytes = threes.checked_mul(5)? / 8 + rows.checked_mul(64)?;
    bytes.checked_next_multiple_of(32)?.checked_add(32)
}

/// Values of `tokenizer.ggml.pre` that all know.
const PRE_TOKENIZERS: &[&str] = &[
    "bloom",
    "chameleon",
    "chatglm-bpe",
    "codeshell",
    "command-r",
    "dbrx",
    "deepseek-coder",
    "deepseek-llm",
    "default",
    "exaone",
    "falcon",
    "falcon3",
    "gpt-2",
    "gpt3-finnish",
    "jais",
    "jina-de",
    "jina-es",
    "jina-v1-en",
    "jina-v2-code",
    "jina-v2-de",
    "jina-v2-es",
    "llama-bpe",
    "llama-v3",
    "llama3",
    "mpt",
    "olmo",
    "phi-2",
    "poro-chat",
    "qwen2",
    "refact",
    "smaug-bpe",
    "smollm",
    "stablelm2",
    "starcoder",
    "tekken",
    "viking",
];

const NEWER_PRE_TOKENIZERS: &[&str] = &[
    "a.x-4.0",
    "afmoe",
    "bailingmoe",
    "bailingmoe2",
    "cohere2moe",
    "deepseek-r1-qwen",
    "deepseek-v3",
    "exaone-moe",
    "exaone4",
    "f2llmv2",
    "falcon-h1",
    "gemma4",
    "gigachat",
    "glm4",
    "gpt-4o",
    "granite-docling",
    "granite-embed-multi-311m",
    "granite-embed-multi-97m",
    "grok-2",
    "hunyuan",
    "hunyuan-dense",
    "jais-2",
    "jina-v5-nano",
    "joyai-llm",
    "kanana2",
    "kimi-k2",
    "kormo",
    "lfm2",
    "llada-moe",
    "llama4",
    "megrez",
    "mellum",
    "mellum2",
    "midm-2.0",
    "minerva-7b",
    "minicpm5",
    "minimax-m2",
    "modern-bert",
    "pixtral",
    "qwen35",
    "roberta-bpe",
    "sarvam-moe",
    "seed-coder",
    "solar-open",
    "superbpe",
    "talkie",
    "tiny_aya",
    "trillion",
    "whitespace",
    "youtu",
];
