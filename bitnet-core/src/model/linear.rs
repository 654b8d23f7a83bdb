//! Weight matrices in the file, and their products with activations.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Error;
use crate::blocks::trits;
use crate::gguf::{Gguf, TensorInfo, TensorType};
use crate::kernels::{Kernel, Rows, round_to_bf16, vectorize};
use crate::pool::Pool;
use crate::quant::activations::{Activations, Codes, Encoding};
use crate::quant::{self, WeightFormat};

/// Rows and tokens that are computed at once; their results lie on the stack.
const TILE_ROWS: usize = 32;
const TILE_TOKENS: usize = 128;

/// Rows that are computed at once by a single token.
const ROWS_BY_ONE: usize = 256;

/// Weights times tokens that are worth waking a thread for: some microseconds.
const LEAST_SHARE: usize = 1 << 17;

/// What a product runs on.
pub(super) struct Compute<'a> {
    pub gguf: &'a Gguf,
    pub kernel: Kernel,
    pub pool: &'a Pool,
    /// The layer's matrices that were repacked.
    pub trits: Option<&'a [u8]>,
}

/// A matrix whose data stay in the file's map, unless it is unpacked or repacked.
#[derive(Debug)]
pub(super) struct Matrix {
    info: TensorInfo,
    /// Its rows, if they do not lie one by one in the file.
    unpacked: Option<Vec<u8>>,
    format: &'static dyn WeightFormat,
    /// Of the whole tensor; 1 where it has none.
    scale: f32,
    rows: usize,
    columns: usize,
    row_bytes: usize,
    /// Where it starts in [`Compute::trits`], if it was repacked.
    trits: OnceLock<usize>,
}

/// The data of a matrix that a product reads.
#[derive(Clone, Copy)]
struct Stored<'a> {
    format: &'static dyn WeightFormat,
    /// Whether they are [`trits`] instead.
    trits: bool,
    scale: f32,
    data: &'a [u8],
    row_bytes: usize,
    columns: usize,
}

impl Matrix {
    /// `rows` by `columns`; the caller has checked the shape.
    pub(super) fn new(
        gguf: &Gguf,
        info: &TensorInfo,
        rows: usize,
        columns: usize,
    ) -> Result<Self, Error> {
        let data = gguf.data(info)?;
        let (Some(format), Some(layout)) = (quant::format(info.ty), info.ty.layout()) else {
            let TensorInfo { name, ty, .. } = info;
            let what = format!("tensor {name:?}: {ty} is not supported for matrices");
            return Err(Error::unsupported(gguf.path(), what));
        };
        let too_small = || {
            let what = format!("tensor {:?}: its data do not hold its shape", info.name);
            Error::bad_file(gguf.path(), what)
        };
        let row_bytes = format.row_bytes(columns);
        let unpacked = format.unpack(info, data).transpose().map_err(|why| {
            let what = format!("tensor {:?}: {why}", info.name);
            Error::unsupported(gguf.path(), what)
        })?;
        let trailer = match unpacked {
            Some(_) => data.len().checked_sub(layout.trailer_bytes as usize),
            None => Some(rows * row_bytes),
        };
        let trailer = trailer
            .and_then(|at| data.get(at..))
            .ok_or_else(too_small)?;
        let scale = match layout.trailer_bytes {
            0 => 1.0,
            _ => f32::from_le_bytes(*trailer.first_chunk().ok_or_else(too_small)?),
        };
        if unpacked.is_some() {
            gguf.release(info);
        }
        Ok(Self {
            info: info.clone(),
            unpacked,
            format,
            scale,
            rows,
            columns,
            row_bytes,
            trits: OnceLock::new(),
        })
    }

    /// Whether single rows can be looked up: not where a row is ternary.
    pub(super) fn is_embedding(&self) -> bool {
        !self.info.ty.is_ternary()
    }

    /// As in the file.
    pub(super) fn ty(&self) -> TensorType {
        self.info.ty
    }

    /// Rows and columns.
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Whether the elements are floats.
    pub(super) fn is_float(&self) -> bool {
        self.info.ty.is_float()
    }

    /// As in the file, or unpacked.
    fn mapped<'a>(&'a self, gguf: &'a Gguf) -> Result<Stored<'a>, Error> {
        Ok(Stored {
            format: self.format,
            trits: false,
            scale: self.scale,
            data: self.data(gguf)?,
            row_bytes: self.row_bytes,
            columns: match self.unpacked {
                Some(_) => Codes::I8.padded(self.columns),
                None => self.columns,
            },
        })
    }

    fn data<'a>(&'a self, gguf: &'a Gguf) -> Result<&'a [u8], Error> {
        match &self.unpacked {
            Some(rows) => Ok(rows),
            None => gguf.data(&self.info),
        }
    }

    /// As products read it.
    fn stored<'a>(&'a self, compute: &Compute<'a>) -> Result<Stored<'a>, Error> {
        if compute.kernel.prefers_trits()
            && let (Some(trits), Some(&start)) = (compute.trits, self.trits.get())
        {
            return Ok(Stored {
                format: self.format,
                trits: true,
                scale: self.scale,
                data: &trits[start..],
                row_bytes: trits::row_bytes(self.columns),
                columns: self.columns,
            });
        }
        self.mapped(compute.gguf)
    }

    /// Bytes that it takes repacked; `None` if that would save nothing.
    pub(super) fn trits_bytes(&self) -> Option<usize> {
        let row_bytes = trits::row_bytes(self.columns);
        let smaller = self.info.ty == trits::OF && row_bytes < self.row_bytes;
        smaller.then(|| self.rows * row_bytes)
    }

    /// Writes it repacked, to what will be [`Compute::trits`] from `start`, and gives up its pages of the map. If a code
    /// stands for no weight, it is used as it is.
    pub(super) fn repack(&self, compute: &Compute, out: &mut [u8], start: usize) {
        let &Compute {
            gguf, kernel, pool, ..
        } = compute;
        let Ok(data) = gguf.data(&self.info) else {
            return;
        };
        let defined = AtomicBool::new(true);
        pool.rows(out, trits::row_bytes(self.columns), |row, out| {
            let row = &data[row * self.row_bytes..][..self.row_bytes];
            if !vectorize!(kernel, trits::pack_row(row, out)) {
                defined.store(false, Ordering::Relaxed);
            }
        });
        if defined.into_inner() {
            gguf.release(&self.info);
            self.trits.get_or_init(|| start);
        }
    }

    /// Row `row`, dequantised.
    pub(super) fn row(&self, gguf: &Gguf, row: usize, out: &mut [f32]) -> Result<(), Error> {
        let data = &gguf.data(&self.info)?[row * self.row_bytes..][..self.row_bytes];
        self.format.dequantize_row(data, out);
        out.iter_mut().for_each(|v| *v *= self.scale);
        Ok(())
    }

    /// `out[t][r] = row r . input t`, for `out` of `[n_tokens][rows]`.
    pub(super) fn apply(
        &self,
        compute: &Compute,
        input: &mut Input,
        out: &mut [f32],
    ) -> Result<(), Error> {
        apply_then(compute, input, [(self, out)], |_, _, _| ())
    }

    /// `out[i] = row rows[i] . input`, for an input of one token: the same bits as [`apply`](Self::apply).
    pub(super) fn apply_to_rows(
        &self,
        compute: &Compute,
        input: &mut Input,
        rows: &[u32],
        out: &mut [f32],
    ) -> Result<(), Error> {
        let &Compute {
            gguf, kernel, pool, ..
        } = compute;
        let stored = self.mapped(gguf)?;
        input.encode(compute, self.format.encoding());
        let token = input.tokens(0..1);
        pool.columns([(out, rows.len())], 8, 8, |_, mut out| {
            let range = out.range();
            for (&row, out) in rows[range].iter().zip(out.row(0)) {
                let weights = stored.rows(row as usize, 1);
                stored.products(kernel, weights, token, std::slice::from_mut(out));
            }
        });
        Ok(())
    }
}

impl<'a> Stored<'a> {
    fn rows(&self, first: usize, n: usize) -> Rows<'a> {
        Rows {
            data: &self.data[first * self.row_bytes..],
            stride: self.row_bytes,
            n,
            columns: self.columns,
        }
    }

    /// The rows of `weights` by the tokens of `x`; `tile` is `[n_tokens][weights.n]`.
    fn products(&self, kernel: Kernel, weights: Rows, x: Activations, tile: &mut [f32]) {
        match self.trits {
            true => quant::i2_s::trit_dots(kernel, weights, self.scale, x, tile),
            false => self.format.dots(kernel, weights, self.scale, x, tile),
        }
    }
}

/// Every matrix by the same input, each into its `out` of `[n_tokens][rows]`, then `finish(i, first_row, values)` on
/// every piece of the results. As one piece of work, for the threads to wait for each other once.
fn apply_then<const N: usize>(
    compute: &Compute,
    input: &mut Input,
    products: [(&Matrix, &mut [f32]); N],
    finish: impl Fn(usize, usize, &mut [f32]) + Sync,
) -> Result<(), Error> {
    let &Compute { kernel, pool, .. } = compute;
    let (columns, n_tokens) = (input.columns, input.n_tokens());
    let mut stored = Vec::with_capacity(N);
    for (matrix, _) in &products {
        debug_assert_eq!(input.columns, matrix.columns);
        input.encode(compute, matrix.format.encoding());
        stored.push(matrix.stored(compute)?);
    }
    let input = &*input;
    let outs = products.map(|(matrix, out)| (&mut out[..n_tokens * matrix.rows], matrix.rows));
    let share = LEAST_SHARE / (columns * n_tokens).max(1);
    let share = share.next_multiple_of(TILE_ROWS).max(TILE_ROWS);
    let tile = if n_tokens == 1 {
        ROWS_BY_ONE
    } else {
        TILE_ROWS
    };
    pool.columns(outs, share, tile, |i, mut out| {
        let (stored, rows) = (stored[i], out.range());
        let weights = stored.rows(rows.start, rows.len());
        if n_tokens == 1 {
            let values = out.row(0);
            stored.products(kernel, weights, input.tokens(0..1), values);
            return finish(i, rows.start, values);
        }
        let mut tile = [0f32; TILE_ROWS * TILE_TOKENS];
        for token in (0..n_tokens).step_by(TILE_TOKENS) {
            let n = TILE_TOKENS.min(n_tokens - token);
            let tile = &mut tile[..n * rows.len()];
            stored.products(kernel, weights, input.tokens(token..token + n), tile);
            for (t, values) in tile.chunks_exact(rows.len()).enumerate() {
                let out = out.row(token + t);
                out.copy_from_slice(values);
                finish(i, rows.start, out);
            }
        }
    });
    Ok(())
}

/// A matrix with the scale and bias that follow it.
#[derive(Debug)]
pub(super) struct Linear {
    pub weight: Matrix,
    /// On top of the scale within an I2_S tensor.
    pub scale: Option<f32>,
    /// One value per row.
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// `out[t] = weight . input[t] * scale + bias`.
    pub(super) fn apply(
        &self,
        compute: &Compute,
        input: &mut Input,
        out: &mut [f32],
    ) -> Result<(), Error> {
        Self::apply_all(compute, input, [(self, out)])
    }

    /// [`apply`](Self::apply) of several to the same input, in less time.
    pub(super) fn apply_all<const N: usize>(
        compute: &Compute,
        input: &mut Input,
        products: [(&Linear, &mut [f32]); N],
    ) -> Result<(), Error> {
        let encoding = |linear: &Linear| linear.weight.format.encoding();
        let first = encoding(products[0].0);
        if products.iter().any(|(linear, _)| encoding(linear) != first) {
            for (linear, out) in products {
                linear.apply(compute, input, out)?;
            }
            return Ok(());
        }
        let linears = products.each_ref().map(|(linear, _)| *linear);
        let products = products.map(|(linear, out)| (&linear.weight, out));
        apply_then(compute, input, products, |i, first, values| {
            let linear = linears[i];
            if let Some(scale) = linear.scale {
                values.iter_mut().for_each(|v| *v *= scale);
            }
            if let Some(bias) = &linear.bias {
                for (v, b) in values.iter_mut().zip(&bias[first..]) {
                    *v += b;
                }
            }
        })
    }
}

/// Part of activations' codes. Aligned, since a load that crosses cache lines takes twice the time.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([i8; 64]);

/// Room for encoded activations, kept from one evaluation to the next.
#[derive(Default)]
pub(super) struct Encoded {
    codes: Vec<Line>,
    /// Per token and block.
    scales: Vec<f32>,
    /// Per token and block.
    sums: Vec<i32>,
    floats: Vec<f32>,
}

/// The activations that one or more matrices are applied to; encoded once per encoding in a row.
pub(super) struct Input<'a> {
    x: &'a [f32],
    columns: usize,
    encoding: Encoding,
    encoded: &'a mut Encoded,
}

impl<'a> Input<'a> {
    /// `x` is `[n_tokens][columns]`.
    pub(super) fn new(x: &'a [f32], columns: usize, encoded: &'a mut Encoded) -> Self {
        Self {
            x,
            columns,
            encoding: Encoding::F32,
            encoded,
        }
    }

    /// The values that `matrix`, of floats, is multiplied with.
    pub(super) fn as_seen_by(&mut self, compute: &Compute, matrix: &Matrix) -> &[f32] {
        self.encode(compute, matrix.format.encoding());
        self.tokens(0..self.n_tokens()).floats
    }

    fn n_tokens(&self) -> usize {
        self.x.len() / self.columns
    }

    /// What some tokens were encoded to.
    fn tokens(&self, tokens: Range<usize>) -> Activations<'_> {
        let of = |per_token: usize| tokens.start * per_token..tokens.end * per_token;
        let Encoded {
            codes,
            scales,
            sums,
            floats,
        } = &*self.encoded;
        match self.encoding {
            Encoding::F32 => Activations {
                floats: &self.x[of(self.columns)],
                ..Activations::default()
            },
            Encoding::Bf16 => Activations {
                floats: &floats[of(self.columns)],
                ..Activations::default()
            },
            Encoding::Codes(encoding) => {
                let blocks = of(self.columns / encoding.block_len(self.columns));
                Activations {
                    codes: &bytemuck::cast_slice(codes)[of(encoding.padded(self.columns))],
                    scales: &scales[blocks.clone()],
                    sums: &sums[blocks],
                    ..Activations::default()
                }
            }
        }
    }

    fn encode(&mut self, compute: &Compute, encoding: Encoding) {
        let &Compute { kernel, pool, .. } = compute;
        if self.encoding == encoding {
            return;
        }
        self.encoding = encoding;
        let (x, columns, n_tokens) = (self.x, self.columns, self.n_tokens());
        let Encoded {
            codes,
            scales,
            sums,
            floats,
        } = &mut *self.encoded;
        let token = |t: usize| &x[t * columns..][..columns];
        match encoding {
            Encoding::F32 => (),
            Encoding::Bf16 => {
                floats.resize(x.len(), 0.0);
                pool.rows(floats, columns, |t, out| {
                    for (out, v) in out.iter_mut().zip(token(t)) {
                        *out = round_to_bf16(*v);
                    }
                });
            }
            Encoding::Codes(encoding) => {
                let n_codes = n_tokens * encoding.padded(columns);
                codes.resize(n_codes.div_ceil(64), Line([0; 64]));
                let codes = &mut bytemuck::cast_slice_mut(codes)[..n_codes];
                let blocks = n_tokens * columns / encoding.block_len(columns);
                scales.resize(blocks, 0.0);
                sums.resize(blocks, 0);
                pool.rows_of_three(n_tokens, (codes, scales, sums), |t, codes, scales, sums| {
                    let (codes, padding) = codes.split_at_mut(columns);
                    encoding.quantize_row(kernel, token(t), codes, scales, sums);
                    padding.fill(0);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bitnet_model::random::Rng;

    use super::*;
    use crate::blocks::i2_s;
    use crate::gguf::{Metadata, Writer};

    /// Rows of 8640 are no whole blocks of I2_S, and end in no twos.
    #[test]
    fn rows_of_tiles_that_are_no_whole_blocks_are_multiplied_exactly() {
        let (rows, columns, ty) = (3200, 8640, TensorType::TL2);
        let mut rng = Rng::new(1, "tiles");
        let shape = [columns as u64, rows as u64];
        let size = ty.data_size(&shape).unwrap() as usize;
        let mut data = vec![0; size];
        data[..rows * columns / 6].fill_with(|| (rng.below(14) << 4 | rng.below(14)) as u8);
        data[rows * columns / 6..][..rows * columns / 24].fill_with(|| rng.next_u64() as u8);
        data[size - 32..][..4].copy_from_slice(&0.3f32.to_le_bytes());
        let path = Path::new("tiles.gguf");
        let mut writer = Writer::new(Metadata::new(path)).unwrap();
        writer.tensor("w", &shape, ty).unwrap();
        let mut writer = writer.begin(Vec::new()).unwrap();
        writer.write_tensor(|out| out.write_all(&data)).unwrap();
        let gguf = Gguf::from_bytes(path, writer.finish().unwrap()).unwrap();
        let info = gguf.tensor("w").unwrap();
        let matrix = Matrix::new(&gguf, info, rows, columns).unwrap();
        let unpacked = quant::unpack(info, &data).unwrap().unwrap();
        let x: Vec<f32> = (0..3 * columns).map(|_| rng.unit() as f32 - 0.5).collect();
        for kernel in Kernel::available() {
            let pool = Pool::new(1).unwrap();
            let compute = Compute {
                gguf: &gguf,
                kernel,
                pool: &pool,
                trits: None,
            };
            let (mut encoded, mut out) = (Encoded::default(), vec![0.0; 3 * rows]);
            let mut input = Input::new(&x, columns, &mut encoded);
            matrix.apply(&compute, &mut input, &mut out).unwrap();
            let (mut encoded, mut one) = (Encoded::default(), [0.0]);
            let mut last = Input::new(&x[2 * columns..], columns, &mut encoded);
            matrix
                .apply_to_rows(&compute, &mut last, &[7], &mut one)
                .unwrap();
            assert_eq!(one[0], out[2 * rows + 7]);
            for (x, out) in x.chunks_exact(columns).zip(out.chunks_exact(rows)) {
                let mut codes = vec![0; columns];
                let (scale, _) = i2_s::quantize_row(x, &mut codes);
                for row in [0, 17, rows - 1] {
                    let mut weights = vec![0.0; columns.next_multiple_of(i2_s::BLOCK)];
                    let of_row = &unpacked[row * matrix.row_bytes..][..matrix.row_bytes];
                    i2_s::dequantize_row(of_row, &mut weights);
                    let products = weights.iter().zip(&codes);
                    let sum: f32 = products.map(|(w, &x)| w * f32::from(x)).sum();
                    assert_eq!(out[row], sum / scale * 0.3, "{}", kernel.name());
                }
            }
        }
    }
}
