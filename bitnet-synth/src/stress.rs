//! Models that drive an engine where it is known to go wrong, and are ordinary otherwise.

use std::f64::consts::SQRT_2;
use std::io::{self, Write};

use bitnet_model::gguf::{TRAILER, TensorType};
use bitnet_model::random::Rng;

use super::random::fill_ternary;
use super::{Error, Fill, SynthOptions, Tensor, divides, ternary_scale};

/// What a model is made to provoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stress {
    /// Sums beyond 16 bits in the down projection. BitNet.cpp's AVX2 kernel adds up 32 blocks of 128 products in
    /// 16-bit lanes, 256 products to a lane, and they wrap once those are all of 127 and weight +1.
    I16Overflow,
}

impl Stress {
    /// Refuses options with which it could not show.
    pub(super) fn check(self, options: &SynthOptions) -> Result<(), Error> {
        let Stress::I16Overflow = self;
        if options.matrix_type != TensorType::I2_S {
            let what = format!(
                "i16-overflow: {} has no I2_S matrices, but {}",
                options.architecture, options.matrix_type
            );
            return Err(Error::option("stress", what));
        }
        divides(
            "ffn",
            options.n_ff,
            ("what an i16 overflow takes", OVERFLOW_FFN),
        )
    }
}

impl SynthOptions {
    /// The same, made to provoke something: the feed-forward network is widened as far as that takes.
    pub fn with_stress(self, stress: Stress) -> SynthOptions {
        let Stress::I16Overflow = stress;
        SynthOptions {
            n_ff: self.n_ff.next_multiple_of(OVERFLOW_FFN),
            stress: Some(stress),
            ..self
        }
    }
}

/// Blocks whose products BitNet.cpp adds up in 16 bits.
const OVERFLOW_BLOCKS: u32 = 32;

/// What `n_ff` must be a multiple of for [`Stress::I16Overflow`]: two such groups, one of which is at its largest.
const OVERFLOW_FFN: u32 = 2 * OVERFLOW_BLOCKS * 128;

/// Every row of `ffn_down` whose index is a multiple of this is all +1.
const ALL_PLUS_ONE: usize = 16;

/// Codes of four weights of +1.
const PLUS_ONE: u8 = 0b10_10_10_10;

/// How a matrix of a stressing model is made.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rows {
    /// The first half of the rows are equal, and the others the same with the sign changed.
    EqualThenNegated,
    /// Random rows, some of them all +1.
    SomeAllPlusOne,
}

impl Rows {
    /// Writes I2_S weights: `outputs` rows of `inputs`, then the scale.
    pub fn write(
        self,
        [inputs, outputs]: [usize; 2],
        scale: f32,
        rng: &mut Rng,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut row = vec![0; inputs / 4];
        fill_ternary(rng, &mut row);
        for i in 0..outputs {
            match self {
                // Codes 0, 1, 2 become 2, 1, 0.
                Rows::EqualThenNegated if i == outputs / 2 => {
                    row.iter_mut().for_each(|codes| *codes = PLUS_ONE - *codes);
                }
                Rows::EqualThenNegated => {}
                Rows::SomeAllPlusOne if i % ALL_PLUS_ONE == 0 => row.fill(PLUS_ONE),
                Rows::SomeAllPlusOne => fill_ternary(rng, &mut row),
            }
            out.write_all(&row)?;
        }
        write_scale(scale, out)
    }
}

/// What stands behind the weights of an I2_S tensor.
pub(super) fn write_scale(scale: f32, out: &mut dyn Write) -> io::Result<()> {
    let mut trailer = [0; TRAILER as usize];
    trailer[..4].copy_from_slice(&scale.to_le_bytes());
    out.write_all(&trailer)
}

/// With equal rows in `ffn_gate` and `ffn_up`, the values of `act(gate) * up` are all equal in one half, and smaller in
/// the other or as large. So are those of the sub-norm, and the int8 codes of one half are all 127 or all -127.
/// `outputs` is what each layer's rows of +1 come to.
pub(super) fn overflow_down_projections(
    list: &mut [Tensor],
    mut outputs: impl Iterator<Item = f64>,
) {
    for tensor in list {
        let part = tensor.name.trim_end_matches(".weight").rsplit('.').next();
        tensor.fill = match (part, tensor.fill) {
            (Some("ffn_gate" | "ffn_up"), Fill::Matrix { input, output }) => Fill::Stress {
                rows: Rows::EqualThenNegated,
                scale: ternary_scale(tensor.shape[0], input, output),
            },
            (Some("ffn_sub_norm"), _) => Fill::Ones,
            (Some("ffn_down"), _) => Fill::Stress {
                rows: Rows::SomeAllPlusOne,
                // Half of the inputs are sqrt(2).
                scale: outputs.next().unwrap_or(1.0) * SQRT_2 / tensor.shape[0] as f64,
            },
            (_, fill) => fill,
        };
    }
}
