//! What the graphs of each generation of llama.cpp call the taps, and how each node comes about.
//!
//! To teach it another graph: `crossval doctor --graph MODEL` lists the nodes, with `?` at those that no row explains. A
//! row more is all that is needed where the stage is the same under another name; its listing goes into `graphs/`.

use bitnet_model::tap::Tap::{self, *};

use self::Generation::{Either, Fork2024, Llama2026};
use self::Input::{Any, Is, Named, Op, Part, Residual};
use self::Layout::{Columns, Probabilities, Rows, Written};

/// Whose names they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Generation {
    /// BitNet's fork of 2024, which both pins carry.
    Fork2024,
    /// llama.cpp of 2026, which BitNet.cpp carries since 2026-07.
    Llama2026,
    /// Both of them.
    Either,
}

/// How a node holds the rows of its tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One after the other.
    Rows,
    /// Transposed: `[n_tokens, width]`, fastest first.
    Columns,
    /// A `SET_ROWS` into all of a cache: the rows that it writes.
    Written,
    /// `[n_kv, n_tokens, n_head]`, with `n_kv` rounded up.
    Probabilities,
}

/// What a node must be computed from. What only gives the same values another shape is looked through.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input {
    /// Whatever it is.
    Any,
    /// The tap's own tensor of this suffix: `blk.LAYER.WEIGHT.SUFFIX`.
    Part(&'static str),
    /// The tensor of this name.
    Named(&'static str),
    /// The first of these taps that the model has. Where that was not found it can be anything: it is not offered, and
    /// what follows from it is not to be lost too.
    Is(&'static [Tap]),
    /// What enters the layer: the output of the one before, or the embeddings.
    Residual,
    /// A node of this operation that is computed from these.
    Op(&'static str, &'static [Input]),
}

/// A tap of one generation. Of several rows of a tap the first counts that a node fits.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) tap: Tap,
    pub(super) generation: Generation,
    /// With `{}` for the layer, and without what ggml appends in parentheses.
    pub(super) name: &'static str,
    pub(super) op: &'static str,
    /// The first of its sources; those of `ADD` and `MUL` in any order.
    pub(super) inputs: &'static [Input],
    pub(super) layout: Layout,
}

const fn row(
    tap: Tap,
    generation: Generation,
    name: &'static str,
    op: &'static str,
    inputs: &'static [Input],
    layout: Layout,
) -> Row {
    Row {
        tap,
        generation,
        name,
        op,
        inputs,
        layout,
    }
}

/// What a graph's builder gave no name: ggml then numbers it, which says nothing. The tensor that it applies is its mark.
pub(super) const UNNAMED: &str = "unnamed";

const WEIGHT: Input = Part("weight");
/// Of a product, what may follow it; the last of them ends the stage.
const SCALED: &[Input] = &[Any, Part("scale")];
const BIASED: &[Input] = &[Any, Part("bias")];

const HEADS_OUT: Input = Is(&[AttnSubNorm, AttnOut]);
const FFN_OUT: Input = Is(&[FfnSubNorm, FfnAct]);
const GATE: Input = Is(&[FfnGate]);
const SILU: &[Input] = &[Op("SILU", &[GATE]), Is(&[FfnUp])];
const RELU2: &[Input] = &[Op("SQR", &[Op("RELU", &[GATE])]), Is(&[FfnUp])];
/// Activation and product in one.
const SPLIT: &[Input] = &[GATE, Is(&[FfnUp])];
const SCORES: &[Input] = &[Op("MUL_MAT", &[Any, Is(&[QRope])])];
const WEIGHTED: &[Input] = &[Op("MUL_MAT", &[Any, Is(&[AttnProbs])])];

#[rustfmt::skip]
pub(super) const TABLE: &[Row] = &[
    //  tap          generation  name                   op          computed from                              layout
    row(Embd,        Fork2024,  "inp_embd",            "GET_ROWS", &[Named("token_embd.weight")],              Rows),
    row(Embd,        Llama2026, "embd",                "GET_ROWS", &[Named("token_embd.weight")],              Rows),

    row(AttnNorm,    Either,    "attn_norm-{}",        "MUL",      &[Op("RMS_NORM", &[Residual]), WEIGHT],      Rows),

    row(Q,           Either,    "Qcur-{}",             "ADD",      BIASED,                                     Rows),
    row(Q,           Either,    "Qcur-{}",             "MUL",      SCALED,                                     Rows),
    row(Q,           Either,    "Qcur-{}",             "MUL_MAT",  &[WEIGHT, Is(&[AttnNorm])],                 Rows),
    row(K,           Either,    "Kcur-{}",             "ADD",      BIASED,                                     Rows),
    row(K,           Either,    "Kcur-{}",             "MUL",      SCALED,                                     Rows),
    row(K,           Either,    "Kcur-{}",             "MUL_MAT",  &[WEIGHT, Is(&[AttnNorm])],                 Rows),
    row(V,           Either,    "Vcur-{}",             "ADD",      BIASED,                                     Rows),
    row(V,           Either,    "Vcur-{}",             "MUL",      SCALED,                                     Rows),
    row(V,           Either,    "Vcur-{}",             "MUL_MAT",  &[WEIGHT, Is(&[AttnNorm])],                 Rows),

    row(QNorm,       Either,    "Qcur_normed-{}",      "MUL",      &[Op("RMS_NORM", &[Is(&[Q])]), WEIGHT],      Rows),
    row(KNorm,       Either,    "Kcur_normed-{}",      "MUL",      &[Op("RMS_NORM", &[Is(&[K])]), WEIGHT],      Rows),
    row(QRope,       Either,    "Qcur-{}",             "ROPE",     &[Is(&[QNorm, Q])],                         Rows),
    row(KRope,       Either,    "Kcur-{}",             "ROPE",     &[Is(&[KNorm, K])],                         Rows),
    row(KCache,      Fork2024,  "k_cache_view-{}",     "CPY",      &[Is(&[KRope])],                            Rows),
    row(KCache,      Llama2026, "cache_k_l{}",         "SET_ROWS", &[Is(&[KRope])],                            Written),
    row(VCache,      Fork2024,  "v_cache_view-{}",     "CPY",      &[Is(&[V])],                                Columns),
    row(VCache,      Llama2026, "cache_v_l{}",         "SET_ROWS", &[Is(&[V])],                                Written),

    row(AttnProbs,   Fork2024,  "kq_soft_max_ext-{}",  "SOFT_MAX", SCORES,                                     Probabilities),
    row(AttnProbs,   Llama2026, "kq_soft_max-{}",      "SOFT_MAX", SCORES,                                     Probabilities),
    // BitNet's graphs of 2024, and all of 2026.
    row(AttnOut,     Either,    "kqv_out-{}",          "CONT",     WEIGHTED,                                   Rows),
    row(AttnOut,     Fork2024,  "kqv_merged_cont-{}",  "CONT",     WEIGHTED,                                   Rows),
    row(AttnSubNorm, Either,    "attn_sub_norm-{}",    "MUL",      &[Op("RMS_NORM", &[Is(&[AttnOut])]), WEIGHT], Rows),
    row(AttnProj,    Fork2024,  "attn_o_out-{}",       "ADD",      BIASED,                                     Rows),
    row(AttnProj,    Fork2024,  "attn_o_out-{}",       "MUL",      SCALED,                                     Rows),
    row(AttnProj,    Fork2024,  "attn_o_out-{}",       "MUL_MAT",  &[WEIGHT, HEADS_OUT],                       Rows),
    row(AttnProj,    Fork2024,  "kqv_out-{}",          "ADD",      BIASED,                                     Rows),
    row(AttnProj,    Fork2024,  "kqv_out-{}",          "MUL_MAT",  &[WEIGHT, HEADS_OUT],                       Rows),
    row(AttnProj,    Llama2026, "attn_out-{}",         "ADD",      BIASED,                                     Rows),
    row(AttnProj,    Llama2026, "attn_out-{}",         "MUL",      SCALED,                                     Rows),
    row(AttnProj,    Llama2026, "attn_out-{}",         "MUL_MAT",  &[WEIGHT, HEADS_OUT],                       Rows),
    // qwen3
    row(AttnProj,    Llama2026, UNNAMED,               "MUL",      SCALED,                                     Rows),
    row(AttnProj,    Llama2026, UNNAMED,               "MUL_MAT",  &[WEIGHT, HEADS_OUT],                       Rows),

    row(FfnInp,      Either,    "ffn_inp-{}",          "ADD",      &[Is(&[AttnProj]), Residual],               Rows),
    row(FfnNorm,     Either,    "ffn_norm-{}",         "MUL",      &[Op("RMS_NORM", &[Is(&[FfnInp])]), WEIGHT], Rows),
    // Here the bias comes before the scale.
    row(FfnGate,     Either,    "ffn_gate_s-{}",       "MUL",      SCALED,                                     Rows),
    row(FfnGate,     Either,    "ffn_gate_b-{}",       "ADD",      BIASED,                                     Rows),
    row(FfnGate,     Either,    "ffn_gate-{}",         "MUL_MAT",  &[WEIGHT, Is(&[FfnNorm])],                  Rows),
    row(FfnUp,       Either,    "ffn_up_s-{}",         "MUL",      SCALED,                                     Rows),
    row(FfnUp,       Either,    "ffn_up_b-{}",         "ADD",      BIASED,                                     Rows),
    row(FfnUp,       Either,    "ffn_up-{}",           "MUL_MAT",  &[WEIGHT, Is(&[FfnNorm])],                  Rows),
    // bitnet: SiLU in 2024, both since; bitnet-b1.58 and bitnet-25 of 2024: ReLU².
    row(FfnAct,      Fork2024,  "ffn_sub_out-{}",      "MUL",      SILU,                                       Rows),
    row(FfnAct,      Fork2024,  "ffn_out-{}",          "MUL",      RELU2,                                      Rows),
    row(FfnAct,      Llama2026, "ffn_sub_out-{}",      "MUL",      RELU2,                                      Rows),
    row(FfnAct,      Llama2026, "ffn_sub_out-{}",      "SWIGLU",   SPLIT,                                      Rows),
    // llama
    row(FfnAct,      Fork2024,  "ffn_gate_par-{}",     "MUL",      SILU,                                       Rows),
    row(FfnAct,      Llama2026, "ffn_swiglu-{}",       "SWIGLU",   SPLIT,                                      Rows),
    row(FfnSubNorm,  Either,    "ffn_sub_norm-{}",     "MUL",      &[Op("RMS_NORM", &[Is(&[FfnAct])]), WEIGHT], Rows),
    // bitnet*, then llama
    row(FfnDown,     Either,    "ffn_down-{}",         "MUL",      SCALED,                                     Rows),
    row(FfnDown,     Either,    "ffn_out-{}",          "MUL",      SCALED,                                     Rows),
    row(FfnDown,     Either,    "ffn_out-{}",          "ADD",      BIASED,                                     Rows),
    row(FfnDown,     Either,    "ffn_down-{}",         "MUL_MAT",  &[WEIGHT, FFN_OUT],                         Rows),
    row(FfnDown,     Either,    "ffn_out-{}",          "MUL_MAT",  &[WEIGHT, FFN_OUT],                         Rows),
    row(LayerOut,    Either,    "l_out-{}",            "ADD",      &[Is(&[FfnDown]), Is(&[FfnInp])],           Rows),

    row(FinalNorm,   Either,    "result_norm",         "MUL",      &[Op("RMS_NORM", &[Residual]), WEIGHT],      Rows),
    row(Logits,      Either,    "result_output",       "MUL",      SCALED,                                     Rows),
    row(Logits,      Either,    "result_output",       "MUL_MAT",  &[WEIGHT, Is(&[FinalNorm])],                Rows),
];
