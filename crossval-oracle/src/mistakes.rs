//! Hypotheses: the ways in which engines get the stages of a layer wrong.
//!
//! [`judge`](super::judge) tries each on the inputs of a stage, and says which of them gives the row that an engine has.
//! The first dozen are what a Rust port of BitNet.cpp got wrong without noticing. [`wrong`](super::wrong) computes what
//! comes of them.

use bitnet_model::tap::Tap;

use Mistake as M;

/// A way of getting a stage wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    /// Ternary codes read as {-2, -1, +1, +2}.
    CodesShifted,
    /// The sum of the activations is not taken off: codes as they are stored, from 0.
    SumNotSubtracted,
    /// Neighbouring weights in a byte, for those of neighbouring bytes, or the other way round.
    BlockOrder,
    /// The weights of a byte in reverse.
    BitOrder,
    /// The codes' scale, of the tensor or of its blocks, is left out.
    WeightScaleLeftOut,
    /// Divided by that scale.
    WeightScaleInverted,
    /// The scale of the next block in the row.
    BlockScaleOfTheNext,
    /// The F16 scale of a block read as BF16.
    BlockScaleBf16,
    /// The code of +2 read as -1.
    TwoReadAsMinusOne,
    /// The `.scale` tensor is left out.
    ScaleTensorLeftOut,
    /// The `.scale` tensor is multiplied after the bias is added.
    BiasScaled,
    /// Activations stay floating-point.
    ActivationsNotQuantised,
    /// Activations are scaled to 128, for 127.
    ActivationScale128,
    /// One activation scale per 128 values, for the whole row.
    ActivationScalePerBlock,
    /// One activation scale for the whole row, for one per block.
    ActivationScalePerRow,
    /// Activation codes are truncated, not rounded.
    CodesTruncated,
    /// Halves are rounded towards zero, not to even nor away from it.
    HalvesTowardsZero,
    /// Halves are rounded up, not to even nor away from zero.
    HalvesUp,
    /// Integer sums wrap at 16 bits.
    SumsWrapAt16Bits,
    /// The same matrix of another layer.
    OtherLayersWeights,
    /// Another matrix of the same layer.
    OtherMatrix,
    /// The matrix is transposed.
    Transposed,
    /// The bias is left out.
    BiasLeftOut,
    /// The embedding as output head, for `output.weight`.
    TiedHead,
    /// LayerNorm: the mean is subtracted.
    MeanSubtracted,
    /// The norm is not applied.
    NormLeftOut,
    /// The norm's weights are not applied.
    GammaLeftOut,
    /// The norm's weights are applied as 1 + gamma.
    GammaPlusOne,
    /// The norm's weights of another layer.
    OtherLayersGamma,
    /// The weights of the layer's other norm of that width.
    OtherNormsGamma,
    /// One norm for the whole row, where each head has its own.
    NormOverTheRow,
    /// A tenfold eps.
    EpsTenfold,
    /// No eps.
    EpsLeftOut,
    /// Eps is added to the root, not under it.
    EpsOutsideRoot,
    /// Neighbours rotate together for split halves, or the other way round.
    OtherPairing,
    /// Rotated for the position after.
    PositionLate,
    /// Rotated for the position before.
    PositionEarly,
    /// Another base of the frequencies.
    OtherRopeBase,
    /// Rotated the other way.
    RopeInverse,
    /// Not rotated.
    RopeLeftOut,
    /// Only the first half of the pairs rotates.
    RopeHalfTheDims,
    /// What the norm of its heads should have come before.
    RotatedBeforeNorm,
    /// Angles as if the context was that of the training.
    RopeUnscaled,
    /// YaRN's factor on the angles of every pair.
    YarnOnEveryPair,
    /// What rotates keeps its size.
    RopeMagnitudeLeftOut,
    /// The row of the position before.
    StaleRow,
    /// Keys before their rotation.
    CachedBeforeRope,
    /// Values for keys, or keys for values.
    KeysForValues,
    /// Rounded towards zero to F16.
    CacheTruncated,
    /// Rounded to BF16 on the way.
    CacheBf16,
    /// The mask hides the token itself.
    MaskHidesItself,
    /// The mask shows the next token.
    MaskShowsNext,
    /// Scores are not scaled.
    ScoresUnscaled,
    /// Scores are divided by the head's width, for its root.
    ScoresOverDim,
    /// Powers of two, for e.
    SoftmaxBaseTwo,
    /// Query heads share key/value heads in turn, not in groups.
    HeadsInTurn,
    /// Every query head uses the first key/value head.
    FirstHeadForAll,
    /// The newest position's value is left out.
    NewestValueLeftOut,
    /// What was there before is not added.
    ResidualDropped,
    /// Only what was there before.
    BranchDropped,
    /// The normed stream is added, for the stream.
    ResidualFromNorm,
    /// SiLU on the gate.
    Silu,
    /// ReLU² on the gate.
    Relu2,
    /// ReLU on the gate.
    Relu,
    /// GELU (tanh form) on the gate.
    Gelu,
    /// Not multiplied by up.
    UpLeftOut,
    /// Gate and up change places.
    GateAndUpSwapped,
    /// The embedding of the next token ID.
    NextTokensRow,
    /// Embeddings are multiplied by the root of their width.
    EmbeddingsScaled,
    /// Results are rounded to F16.
    ResultsF16,
    /// Results are rounded to BF16.
    ResultsBf16,
    /// The sign is turned.
    Negated,
    /// Nothing is written.
    Zero,
}

pub(super) const NORMS: &[Tap] = &[
    Tap::AttnNorm,
    Tap::QNorm,
    Tap::KNorm,
    Tap::AttnSubNorm,
    Tap::FfnNorm,
    Tap::FfnSubNorm,
    Tap::FinalNorm,
];
pub(super) const PRODUCTS: &[Tap] = &[
    Tap::Q,
    Tap::K,
    Tap::V,
    Tap::AttnProj,
    Tap::FfnGate,
    Tap::FfnUp,
    Tap::FfnDown,
];
pub(super) const ROTATIONS: &[Tap] = &[Tap::QRope, Tap::KRope];
pub(super) const CACHES: &[Tap] = &[Tap::KCache, Tap::VCache];
pub(super) const RESIDUALS: &[Tap] = &[Tap::FfnInp, Tap::LayerOut];
/// Where nothing in a model's types allows a rounding.
const FLOATS: &[Tap] = &[
    Tap::AttnNorm,
    Tap::QNorm,
    Tap::KNorm,
    Tap::QRope,
    Tap::KRope,
    Tap::AttnSubNorm,
    Tap::FfnInp,
    Tap::FfnNorm,
    Tap::FfnAct,
    Tap::FfnSubNorm,
    Tap::LayerOut,
    Tap::FinalNorm,
];

/// A mistake, and what an engine that makes it does.
type Hypothesis = (Mistake, &'static str);

/// What is looked for at which taps: where it can be made, and shows first.
const HYPOTHESES: &[(&[Tap], &[Hypothesis])] = &[
    (
        PRODUCTS,
        &[
            (M::CodesShifted, "reads the ternary codes as -2, -1, +1, +2"),
            (
                M::SumNotSubtracted,
                "takes the codes as they are stored, from 0: the activations' sum is missing",
            ),
            (
                M::BlockOrder,
                "reads the weights of a block in another order: takes neighbours in a byte for those of neighbouring bytes, \
                 or the other way round",
            ),
            (M::BitOrder, "reads the weights of a byte in reverse"),
            (M::WeightScaleLeftOut, "leaves out the weights' scale"),
            (M::WeightScaleInverted, "divides by the weights' scale"),
            (
                M::BlockScaleOfTheNext,
                "takes the scale of the next block of weights",
            ),
            (
                M::BlockScaleBf16,
                "reads the scales of blocks of weights as BF16, they are F16",
            ),
            (M::TwoReadAsMinusOne, "reads the code of +2 as -1"),
            (M::ScaleTensorLeftOut, "leaves out the `.scale` tensor"),
            (
                M::BiasScaled,
                "multiplies the bias by the `.scale` tensor, which is the weights'",
            ),
            (
                M::ActivationsNotQuantised,
                "does not quantise the activations to int8",
            ),
            (
                M::ActivationScale128,
                "scales the activations to 128, the model says 127",
            ),
            (
                M::ActivationScalePerBlock,
                "scales the activations by blocks of 128, not by rows",
            ),
            (
                M::ActivationScalePerRow,
                "scales the activations by rows, not by blocks",
            ),
            (
                M::CodesTruncated,
                "truncates the activation codes, the model rounds them",
            ),
            (
                M::HalvesTowardsZero,
                "rounds halves of activation codes towards zero, the model rounds to even",
            ),
            (
                M::HalvesUp,
                "rounds halves of activation codes up, the model rounds to even",
            ),
            (M::SumsWrapAt16Bits, "lets the integer sums wrap at 16 bits"),
            (M::OtherLayersWeights, "uses the weights of another layer"),
            (M::OtherMatrix, "uses another matrix of the layer"),
            (M::Transposed, "uses the matrix transposed"),
            (M::BiasLeftOut, "leaves out the bias"),
        ],
    ),
    (
        &[Tap::Logits],
        &[(
            M::TiedHead,
            "uses the token embedding as output head, the model has one of its own",
        )],
    ),
    (
        NORMS,
        &[
            (
                M::MeanSubtracted,
                "subtracts the mean (LayerNorm), the model says RMSNorm",
            ),
            (M::NormLeftOut, "leaves out the norm"),
            (M::GammaLeftOut, "leaves out the norm's weights"),
            (M::GammaPlusOne, "multiplies by 1 + the norm's weights"),
            (
                M::OtherLayersGamma,
                "uses the norm's weights of another layer",
            ),
            (M::OtherNormsGamma, "uses the weights of another norm"),
            (
                M::NormOverTheRow,
                "norms the whole row, the model each head of it",
            ),
            (M::EpsTenfold, "uses a tenfold eps"),
            (M::EpsLeftOut, "leaves out eps"),
            (M::EpsOutsideRoot, "adds eps outside the root"),
        ],
    ),
    (
        ROTATIONS,
        &[
            (
                M::OtherPairing,
                "is off by RoPE pairing: it rotates the other pairs of elements",
            ),
            (M::PositionLate, "rotates for the position after"),
            (M::PositionEarly, "rotates for the position before"),
            (M::OtherRopeBase, "uses another RoPE base"),
            (M::RopeInverse, "rotates the other way"),
            (M::RopeLeftOut, "does not rotate"),
            (M::RopeHalfTheDims, "rotates only half of the dimensions"),
            (
                M::RotatedBeforeNorm,
                "rotates what comes before the norm of the heads",
            ),
            (M::RopeUnscaled, "leaves out the scaling of RoPE"),
            (
                M::YarnOnEveryPair,
                "scales the angles of every pair, the model says YaRN",
            ),
            (
                M::RopeMagnitudeLeftOut,
                "leaves out the factor on what rotates (YaRN's magnitude)",
            ),
        ],
    ),
    (
        CACHES,
        &[(M::StaleRow, "has the row of the position before")],
    ),
    (
        &[Tap::KCache],
        &[(M::CachedBeforeRope, "stores the keys before their rotation")],
    ),
    (
        CACHES,
        &[
            (M::KeysForValues, "confuses keys and values"),
            (
                M::CacheTruncated,
                "truncates to F16, the cache rounds to nearest",
            ),
            (M::CacheBf16, "rounds to BF16, the cache is F16"),
        ],
    ),
    (
        &[Tap::AttnProbs],
        &[
            (
                M::MaskHidesItself,
                "has a mask that is off by one: it hides the token itself",
            ),
            (
                M::MaskShowsNext,
                "has a mask that is off by one: it shows the next token",
            ),
            (M::ScoresUnscaled, "does not scale the scores"),
            (
                M::ScoresOverDim,
                "divides the scores by the head's width, not by its root",
            ),
            (M::SoftmaxBaseTwo, "raises 2 to the scores, not e"),
        ],
    ),
    (
        &[Tap::AttnProbs, Tap::AttnOut],
        &[
            (
                M::HeadsInTurn,
                "maps query heads to key/value heads in turn, not in groups",
            ),
            (M::FirstHeadForAll, "uses the first key/value head for all"),
        ],
    ),
    (
        &[Tap::AttnOut],
        &[(
            M::NewestValueLeftOut,
            "leaves out the newest position's value",
        )],
    ),
    (
        RESIDUALS,
        &[
            (M::ResidualDropped, "drops the residual"),
            (M::BranchDropped, "adds nothing to the residual"),
            (
                M::ResidualFromNorm,
                "adds the normed stream for the residual",
            ),
        ],
    ),
    (
        &[Tap::FfnAct],
        &[
            (M::Silu, "matches SiLU"),
            (M::Relu2, "matches ReLU²"),
            (M::Relu, "matches ReLU"),
            (M::Gelu, "matches GELU"),
            (M::UpLeftOut, "does not multiply by up"),
            (M::GateAndUpSwapped, "has gate and up swapped"),
        ],
    ),
    (
        &[Tap::Embd],
        &[
            (M::NextTokensRow, "has the embedding of the next token ID"),
            (
                M::EmbeddingsScaled,
                "multiplies the embedding by the root of its width",
            ),
        ],
    ),
    (
        FLOATS,
        &[
            (M::ResultsF16, "is rounded to F16"),
            (M::ResultsBf16, "is rounded to BF16"),
        ],
    ),
    (
        &Tap::ALL,
        &[
            (M::Negated, "has the sign turned"),
            (M::Zero, "is all zeros"),
        ],
    ),
];

/// What is looked for at a tap, in the order in which findings name it.
pub(super) fn hypotheses(tap: Tap) -> impl Iterator<Item = Hypothesis> {
    let here = HYPOTHESES
        .iter()
        .filter(move |(taps, _)| taps.contains(&tap));
    here.flat_map(|(_, mistakes)| mistakes.iter().copied())
}
