//! The catalogue: the ways in which engines get the stages of a layer wrong.
//!
//! A kind of mistake is one entry here, and its arithmetic in [`stages`](super::stages). The first dozen are what a Rust
//! port of BitNet.cpp got wrong without noticing.

use bitnet_model::tap::Tap;

const PRODUCTS: &[Tap] = &[
    Tap::Q,
    Tap::K,
    Tap::V,
    Tap::AttnProj,
    Tap::FfnGate,
    Tap::FfnUp,
    Tap::FfnDown,
];
const NORMS: &[Tap] = &[
    Tap::AttnNorm,
    Tap::QNorm,
    Tap::KNorm,
    Tap::AttnSubNorm,
    Tap::FfnNorm,
    Tap::FfnSubNorm,
    Tap::FinalNorm,
];
/// Of each head by itself.
const HEAD_NORMS: &[Tap] = &[Tap::QNorm, Tap::KNorm];
const ROTATIONS: &[Tap] = &[Tap::QRope, Tap::KRope];
const CACHES: &[Tap] = &[Tap::KCache, Tap::VCache];
const RESIDUALS: &[Tap] = &[Tap::FfnInp, Tap::LayerOut];
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

/// An entry of the catalogue.
struct Entry {
    name: &'static str,
    taps: &'static [Tap],
    /// One text, or none.
    needs: &'static [&'static str],
}

/// Mistakes, each with its name in a fault's text form, the taps at which it can be made and shows first, and what must
/// be there for it to have consequences.
macro_rules! catalogue {
    ($($(#[$doc:meta])+ $mistake:ident($name:literal, $taps:expr $(, needs $needs:literal)?),)+) => {
        /// A way of getting a stage wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Mistake {
            $($(#[$doc])+ $mistake,)+
        }

        const CATALOGUE: &[Entry] = &[
            $(Entry { name: $name, taps: $taps, needs: &[$($needs)?] },)+
        ];

        impl Mistake {
            /// Every one, in the catalogue's order.
            pub const ALL: &[Mistake] = &[$(Mistake::$mistake,)+];
        }
    };
}

catalogue! {
    /// Ternary codes read as {-2, -1, +1, +2}.
    CodesShifted("codes-shifted", PRODUCTS, needs "ternary weights"),
    /// The sum of the activations is not taken off: codes as they are stored, from 0.
    SumNotSubtracted("sum-not-subtracted", PRODUCTS, needs "weights in codes"),
    /// Neighbouring weights in a byte, for those of neighbouring bytes, or the other way round.
    BlockOrder("block-order", PRODUCTS, needs "weights in codes"),
    /// The weights of a byte in reverse.
    BitOrder("bit-order", PRODUCTS, needs "weights in codes"),
    /// The codes' scale, of the tensor or of its blocks, is left out.
    WeightScaleLeftOut("weight-scale-left-out", PRODUCTS, needs "weights in codes, of another scale than 1"),
    /// Divided by that scale.
    WeightScaleInverted("weight-scale-inverted", PRODUCTS, needs "weights in codes, of another scale than 1"),
    /// The scale of the next block in the row.
    BlockScaleOfTheNext("block-scale-of-the-next", PRODUCTS, needs "codes in blocks, of several scales in a row"),
    /// The F16 scale of a block read as BF16.
    BlockScaleBf16("block-scale-bf16", PRODUCTS, needs "codes in blocks"),
    /// The code of +2 read as -1, as if it was signed.
    TwoReadAsMinusOne("two-read-as-minus-one", PRODUCTS, needs "a weight of +2"),
    /// The `.scale` tensor is left out.
    ScaleTensorLeftOut("scale-tensor-left-out", PRODUCTS, needs "a `.scale` tensor other than 1"),
    /// The `.scale` tensor is multiplied after the bias is added.
    BiasScaled("bias-scaled", PRODUCTS, needs "a bias, and a `.scale` tensor other than 1"),
    /// Activations stay floating-point.
    ActivationsNotQuantised("activations-not-quantised", PRODUCTS, needs "ternary weights"),
    /// Activations are scaled to 128, for 127.
    ActivationScale128("activation-scale128", PRODUCTS, needs "ternary weights"),
    /// One activation scale per 128 values, for the whole row.
    ActivationScalePerBlock("activation-scale-per-block", PRODUCTS, needs "ternary rows of more than one block"),
    /// One activation scale for the whole row, for one per block.
    ActivationScalePerRow("activation-scale-per-row", PRODUCTS, needs "weights beside which activations are rounded in blocks, of which there are several in a row"),
    /// Activation codes are truncated, not rounded.
    CodesTruncated("codes-truncated", PRODUCTS, needs "weights beside which activations are rounded"),
    /// Halves are rounded towards zero: where the lower code is odd, neither to even nor away from zero, as engines may.
    HalvesTowardsZero("halves-towards-zero", PRODUCTS, needs "ternary weights, and an activation right between two codes"),
    /// Halves are rounded away from zero, as engines may: no mistake.
    HalvesAway("halves-away", PRODUCTS, needs "ternary weights, and an activation right between two codes"),
    /// Integer sums wrap at 16 bits.
    SumsWrapAt16Bits("sums-wrap-at16-bits", PRODUCTS, needs "ternary weights, and an integer sum beyond 16 bits"),
    /// The same matrix of another layer.
    OtherLayersWeights("other-layers-weights", PRODUCTS, needs "another layer"),
    /// Another matrix of the same layer.
    OtherMatrix("other-matrix", PRODUCTS, needs "another matrix of the same shape"),
    /// The matrix is transposed.
    Transposed("transposed", PRODUCTS, needs "a square matrix"),
    /// One bit of one weight is flipped.
    FlippedBit("flipped-bit", PRODUCTS, needs "an activation that is not 0 at the weight"),
    /// The bias is left out.
    BiasLeftOut("bias-left-out", PRODUCTS, needs "a bias"),
    /// The embedding as output head, for `output.weight`.
    TiedHead("tied-head", &[Tap::Logits], needs "an output matrix of its own"),
    /// LayerNorm: the mean is subtracted.
    MeanSubtracted("mean-subtracted", NORMS, needs "inputs whose mean is not 0"),
    /// The norm is not applied.
    NormLeftOut("norm-left-out", NORMS),
    /// The norm's weights are not applied.
    GammaLeftOut("gamma-left-out", NORMS, needs "norm weights other than 1"),
    /// The norm's weights are applied as 1 + gamma.
    GammaPlusOne("gamma-plus-one", NORMS),
    /// The norm's weights of another layer.
    OtherLayersGamma("other-layers-gamma", NORMS, needs "another layer"),
    /// The weights of the layer's other norm of that width.
    OtherNormsGamma("other-norms-gamma", NORMS, needs "another norm of the same width"),
    /// One norm for the whole row, where each head has its own.
    NormOverTheRow("norm-over-the-row", HEAD_NORMS, needs "several heads"),
    /// A tenfold eps.
    EpsTenfold("eps-tenfold", NORMS, needs "inputs so small that eps does more than f32 rounding"),
    /// No eps.
    EpsLeftOut("eps-left-out", NORMS, needs "inputs so small that eps does more than f32 rounding"),
    /// Eps is added to the root, not under it.
    EpsOutsideRoot("eps-outside-root", NORMS, needs "inputs so small that eps does more than f32 rounding"),
    /// Neighbours rotate together for split halves, or the other way round.
    OtherPairing("other-pairing", ROTATIONS, needs "a position other than 0"),
    /// Rotated for the position after.
    PositionLate("position-late", ROTATIONS),
    /// Rotated for the position before.
    PositionEarly("position-early", ROTATIONS),
    /// Another base of the frequencies.
    OtherRopeBase("other-rope-base", ROTATIONS, needs "a position other than 0"),
    /// Rotated the other way.
    RopeInverse("rope-inverse", ROTATIONS, needs "a position other than 0"),
    /// Not rotated.
    RopeLeftOut("rope-left-out", ROTATIONS, needs "a position other than 0"),
    /// Only the first half of the pairs rotates.
    RopeHalfTheDims("rope-half-the-dims", ROTATIONS, needs "a position other than 0"),
    /// What the norm of its heads should have come before.
    RotatedBeforeNorm("rotated-before-norm", ROTATIONS, needs "norms of queries and keys"),
    /// Angles as if the context was that of the training.
    RopeUnscaled("rope-unscaled", ROTATIONS, needs "a scaled rotation, and a position other than 0"),
    /// YaRN's factor on the angles of every pair, and none on the values.
    YarnOnEveryPair("yarn-on-every-pair", ROTATIONS, needs "YaRN"),
    /// What rotates keeps its size.
    RopeMagnitudeLeftOut("rope-magnitude-left-out", ROTATIONS, needs "YaRN, or another factor on what rotates"),
    /// The row of the position before.
    StaleRow("stale-row", CACHES, needs "a position before"),
    /// The row that the first sequence had at this position.
    EarlierRow("earlier-row", CACHES, needs "another sequence before"),
    /// Keys before their rotation.
    CachedBeforeRope("cached-before-rope", &[Tap::KCache]),
    /// Values for keys, or keys for values.
    KeysForValues("keys-for-values", CACHES),
    /// Rounded towards zero to F16.
    CacheTruncated("cache-truncated", CACHES),
    /// Rounded to BF16 on the way.
    CacheBf16("cache-bf16", CACHES),
    /// The mask hides the token itself.
    MaskHidesItself("mask-hides-itself", &[Tap::AttnProbs], needs "a position before"),
    /// The mask shows the next token.
    MaskShowsNext("mask-shows-next", &[Tap::AttnProbs], needs "a batch of several tokens"),
    /// Scores are not scaled.
    ScoresUnscaled("scores-unscaled", &[Tap::AttnProbs]),
    /// Scores are divided by the head's width, for its root.
    ScoresOverDim("scores-over-dim", &[Tap::AttnProbs]),
    /// Powers of two, for e.
    SoftmaxBaseTwo("softmax-base-two", &[Tap::AttnProbs]),
    /// Query heads share key/value heads in turn, not in groups.
    HeadsInTurn("heads-in-turn", &[Tap::AttnProbs, Tap::AttnOut], needs "several key/value heads that query heads share"),
    /// Every query head uses the first key/value head.
    FirstHeadForAll("first-head-for-all", &[Tap::AttnProbs, Tap::AttnOut], needs "several key/value heads"),
    /// The newest position's value is left out.
    NewestValueLeftOut("newest-value-left-out", &[Tap::AttnOut]),
    /// What a longer sequence before left behind the last position is attended to.
    EarlierSequenceSeen("earlier-sequence-seen", &[Tap::AttnOut], needs "a longer sequence before"),
    /// What was there before is not added.
    ResidualDropped("residual-dropped", RESIDUALS),
    /// Only what was there before.
    BranchDropped("branch-dropped", RESIDUALS),
    /// The normed stream is added, for the stream.
    ResidualFromNorm("residual-from-norm", RESIDUALS),
    /// SiLU on the gate.
    Silu("silu", &[Tap::FfnAct], needs "a model with ReLU²"),
    /// ReLU² on the gate.
    Relu2("relu2", &[Tap::FfnAct], needs "a model with SiLU"),
    /// ReLU on the gate.
    Relu("relu", &[Tap::FfnAct]),
    /// GELU (tanh form) on the gate.
    Gelu("gelu", &[Tap::FfnAct]),
    /// Not multiplied by up.
    UpLeftOut("up-left-out", &[Tap::FfnAct]),
    /// Gate and up change places.
    GateAndUpSwapped("gate-and-up-swapped", &[Tap::FfnAct]),
    /// The embedding of the next token ID.
    NextTokensRow("next-tokens-row", &[Tap::Embd]),
    /// Embeddings are multiplied by the root of their width.
    EmbeddingsScaled("embeddings-scaled", &[Tap::Embd]),
    /// Angles are products in f32, as engines may have them: no mistake.
    F32Angles("f32-angles", ROTATIONS, needs "a position other than 0"),
    /// Queries or probabilities are rounded to F16, as the cache is and engines may: no mistake.
    F16Inputs("f16-inputs", &[Tap::AttnProbs, Tap::AttnOut]),
    /// Results are rounded to F16.
    ResultsF16("results-f16", FLOATS),
    /// Results are rounded to BF16.
    ResultsBf16("results-bf16", FLOATS),
    /// Results are half as large again.
    ScaledByHalfAgain("scaled-by-half-again", &Tap::ALL),
    /// Results are a hundredth too large.
    ScaledByAHundredth("scaled-by-a-hundredth", &Tap::ALL),
    /// Results are off by their root mean square.
    OffByRms("off-by-rms", &Tap::ALL),
    /// Results are off by a hundredth of their root mean square.
    OffByAHundredthRms("off-by-a-hundredth-rms", &Tap::ALL),
    /// The sign is turned.
    Negated("negated", &Tap::ALL),
    /// Nothing is written.
    Zero("zero", &Tap::ALL),
}

impl Mistake {
    fn entry(self) -> &'static Entry {
        &CATALOGUE[self as usize]
    }

    /// The mistake of that name.
    pub fn named(name: &str) -> Option<Mistake> {
        Mistake::ALL.iter().copied().find(|m| m.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// Where it can be made, and shows first.
    pub fn taps(self) -> &'static [Tap] {
        self.entry().taps
    }

    /// What must be there for it to have consequences; `None` if it always has.
    pub fn needs(self) -> Option<&'static str> {
        self.entry().needs.first().copied()
    }

    /// Whether it is one: what is no mistake differs from the engine and is as right, for others to hide behind.
    pub(super) fn is_wrong(self) -> bool {
        !matches!(
            self,
            Mistake::F32Angles | Mistake::F16Inputs | Mistake::HalvesAway
        )
    }

    /// Whether the whole model computes something else by it than by the roundings that its types allow, so that it
    /// shows in logits, too. A factor need not: the next norm divides by it. Nor need a mean: few have one.
    pub(super) fn shows_in_logits(self) -> bool {
        !matches!(
            self,
            Mistake::WeightScaleLeftOut
                | Mistake::WeightScaleInverted
                | Mistake::BlockScaleOfTheNext
                | Mistake::BlockScaleBf16
                | Mistake::TwoReadAsMinusOne
                | Mistake::ScaleTensorLeftOut
                | Mistake::BiasScaled
                | Mistake::ActivationScalePerRow
                | Mistake::EmbeddingsScaled
                | Mistake::ScaledByHalfAgain
                | Mistake::MeanSubtracted
                | Mistake::ActivationsNotQuantised
                | Mistake::ActivationScale128
                | Mistake::ActivationScalePerBlock
                | Mistake::CodesTruncated
                | Mistake::HalvesTowardsZero
                | Mistake::FlippedBit
                | Mistake::EpsTenfold
                | Mistake::EpsLeftOut
                | Mistake::EpsOutsideRoot
                | Mistake::CacheTruncated
                | Mistake::CacheBf16
                | Mistake::ResultsF16
                | Mistake::ResultsBf16
                | Mistake::ScaledByAHundredth
                | Mistake::OffByAHundredthRms
        )
    }
}
