//! Weight matrices in the file, and their products with activations.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::Error;
use crate::gguf::{Gguf, TensorInfo, TensorType};
use crate::kernels::{Float, Kernel, Rows, round_to_bf16, vectorize};
use crate::pool::Pool;
use crate::quant::{i2_s, q6_k, q8_0, trits};

/// Rows and tokens that are computed at once; their results lie on the stack.
const TILE_ROWS: usize = 32;
const TILE_TOKENS: usize = 128;

/// Rows that are computed at once by a single token.
const ROWS_BY_ONE: usize = 256;

/// Weights times tokens that are worth waking a thread for: some microseconds.
const LEAST_SHARE: usize = 1 << 17;

/// What a product runs on.
pub(super) struct Engine<'a> {
    pub gguf: &'a Gguf,
    pub kernel: Kernel,
    pub pool: &'a Pool,
    /// The layer's matrices that were repacked.
    pub trits: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    /// The tensor's scale.
    I2S(f32),
    /// As I2_S, repacked in memory.
    Trits(f32),
    Float(Float),
    Q8_0,
    Q6K,
}

/// What activations are turned into beside a format.
#[derive(Clone, Copy, PartialEq)]
enum Encoding {
    /// As they are.
    F32,
    Bf16,
    I8,
    Q8_0,
    Q8K,
}

/// A matrix whose data stay in the file's map, unless it is repacked.
#[derive(Debug)]
pub(super) struct Matrix {
    info: TensorInfo,
    format: Format,
    rows: usize,
    columns: usize,
    row_bytes: usize,
    /// Where it starts in [`Engine::trits`], if it was repacked.
    trits: OnceLock<usize>,
}

/// The data of a matrix that a product reads.
#[derive(Clone, Copy)]
struct Stored<'a> {
    format: Format,
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
        let (format, row_bytes) = match info.ty {
            TensorType::F32 => (Format::Float(Float::F32), columns * 4),
            TensorType::F16 => (Format::Float(Float::F16), columns * 2),
            TensorType::BF16 => (Format::Float(Float::Bf16), columns * 2),
            TensorType::Q8_0 => (Format::Q8_0, columns / q8_0::BLOCK * q8_0::BLOCK_BYTES),
            TensorType::Q6_K => (Format::Q6K, columns / q6_k::BLOCK * q6_k::BLOCK_BYTES),
            TensorType::I2_S => {
                let scale = data
                    .get(rows * columns / 4..)
                    .and_then(|trailer| trailer.first_chunk())
                    .ok_or_else(|| too_small(gguf, info))?;
                (Format::I2S(f32::from_le_bytes(*scale)), columns / 4)
            }
            TensorType::Unknown(_) => return Err(too_small(gguf, info)),
        };
        if data.len() < rows * row_bytes {
            return Err(too_small(gguf, info));
        }
        Ok(Self {
            info: info.clone(),
            format,
            rows,
            columns,
            row_bytes,
            trits: OnceLock::new(),
        })
    }

    /// Whether single rows can be looked up: not where a row is ternary.
    pub(super) fn is_embedding(&self) -> bool {
        !matches!(self.format, Format::I2S(_))
    }

    /// Rows and columns.
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Whether the elements are floats.
    pub(super) fn is_float(&self) -> bool {
        matches!(self.format, Format::Float(_))
    }

    fn encoding(&self) -> Encoding {
        match self.format {
            Format::I2S(_) | Format::Trits(_) => Encoding::I8,
            Format::Float(Float::Bf16) => Encoding::Bf16,
            Format::Float(_) => Encoding::F32,
            Format::Q8_0 => Encoding::Q8_0,
            Format::Q6K => Encoding::Q8K,
        }
    }

    /// As in the file.
    fn mapped<'a>(&self, gguf: &'a Gguf) -> Result<Stored<'a>, Error> {
        Ok(Stored {
            format: self.format,
            data: gguf.data(&self.info)?,
            row_bytes: self.row_bytes,
            columns: self.columns,
        })
    }

    /// As products read it.
    fn stored<'a>(&self, engine: &Engine<'a>) -> Result<Stored<'a>, Error> {
        if let Format::I2S(scale) = self.format
            && engine.kernel.prefers_trits()
            && let (Some(trits), Some(&start)) = (engine.trits, self.trits.get())
        {
            return Ok(Stored {
                format: Format::Trits(scale),
                data: &trits[start..],
                row_bytes: trits::row_bytes(self.columns),
                columns: self.columns,
            });
        }
        self.mapped(engine.gguf)
    }

    /// Bytes that it takes repacked; `None` if that would save nothing.
    pub(super) fn trits_bytes(&self) -> Option<usize> {
        let row_bytes = trits::row_bytes(self.columns);
        let smaller = matches!(self.format, Format::I2S(_)) && row_bytes < self.row_bytes;
        smaller.then(|| self.rows * row_bytes)
    }

    /// Writes it repacked, to what will be [`Engine::trits`] from `start`, and gives up its pages of the map. If a code
    /// stands for no weight, it is used as it is.
    pub(super) fn repack(&self, engine: &Engine, out: &mut [u8], start: usize) {
        let &Engine {
            gguf, kernel, pool, ..
        } = engine;
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
        match self.format {
            Format::Float(Float::F32) => {
                for (out, v) in out.iter_mut().zip(data.as_chunks::<4>().0) {
                    *out = f32::from_le_bytes(*v);
                }
            }
            Format::Float(Float::F16) => {
                let row: Vec<f16> = data
                    .as_chunks()
                    .0
                    .iter()
                    .map(|v| f16::from_le_bytes(*v))
                    .collect();
                row.convert_to_f32_slice(out);
            }
            Format::Float(Float::Bf16) => {
                for (out, v) in out.iter_mut().zip(data.as_chunks().0) {
                    *out = bf16::from_le_bytes(*v).to_f32();
                }
            }
            Format::Q8_0 => q8_0::dequantize_row(data, out),
            Format::Q6K => q6_k::dequantize_row(data, out),
            Format::I2S(_) | Format::Trits(_) => {
                let what = format!("tensor {:?}: I2_S rows cannot be looked up", self.info.name);
                return Err(Error::unsupported(gguf.path(), what));
            }
        }
        Ok(())
    }

    /// `out[t][r] = row r . input t`, for `out` of `[n_tokens][rows]`.
    pub(super) fn apply(
        &self,
        engine: &Engine,
        input: &mut Input,
        out: &mut [f32],
    ) -> Result<(), Error> {
        apply_then(engine, input, [(self, out)], |_, _, _| ())
    }

    /// `out[i] = row rows[i] . input`, for an input of one token: the same bits as [`apply`](Self::apply).
    pub(super) fn apply_to_rows(
        &self,
        engine: &Engine,
        input: &mut Input,
        rows: &[u32],
        out: &mut [f32],
    ) -> Result<(), Error> {
        let &Engine {
            gguf, kernel, pool, ..
        } = engine;
        let stored = self.mapped(gguf)?;
        input.encode(engine, self.encoding());
        let input = &*input;
        pool.columns([(out, rows.len())], 8, 8, |_, mut out| {
            let range = out.range();
            for (&row, out) in rows[range].iter().zip(out.row(0)) {
                let weights = stored.rows(row as usize, 1);
                let out = std::slice::from_mut(out);
                stored.products(kernel, weights, input, 0, &mut [0], out);
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

    /// The rows of `weights` by the tokens from `token`; `tile` is `[n_tokens][weights.n]`, and `dots` has room for as
    /// many.
    fn products(
        &self,
        kernel: Kernel,
        weights: Rows,
        input: &Input,
        token: usize,
        dots: &mut [i32],
        tile: &mut [f32],
    ) {
        let tokens = token..token + tile.len() / weights.n;
        match self.format {
            Format::Float(ty) => {
                kernel.float_dots(ty, weights, input.floats(tokens), tile);
            }
            Format::Q8_0 => {
                let (codes, scales) = input.codes(tokens, q8_0::BLOCK);
                kernel.q8_0_dots(weights, codes, scales, tile);
            }
            Format::Q6K => {
                let (codes, scales) = input.codes(tokens, q6_k::BLOCK);
                kernel.q6_k_dots(weights, codes, scales, tile);
            }
            Format::I2S(weight_scale) | Format::Trits(weight_scale) => {
                let dots = &mut dots[..tile.len()];
                let (codes, scales) = input.codes(tokens.clone(), self.columns);
                match self.format {
                    Format::Trits(_) => kernel.trit_dots(weights, codes, dots),
                    _ => kernel.i2_s_dots(weights, codes, dots),
                }
                for (t, (out, dots)) in tile
                    .chunks_exact_mut(weights.n)
                    .zip(dots.chunks_exact(weights.n))
                    .enumerate()
                {
                    // The codes are 0..=2, so the sum of the activations comes off. This order of f32 operations
                    // is the reference's (`ggml_compute_forward_mul_mat_one_chunk`).
                    let sum = input.encoded.sums[tokens.start + t] as f32;
                    let scale = scales[t];
                    vectorize!(kernel, {
                        for (out, &dot) in out.iter_mut().zip(dots) {
                            *out = (dot as f32 - sum) / scale * weight_scale;
                        }
                    });
                }
            }
        }
    }
}

/// Every matrix by the same input, each into its `out` of `[n_tokens][rows]`, then `finish(i, first_row, values)` on
/// every piece of the results. As one piece of work, for the threads to wait for each other once.
fn apply_then<const N: usize>(
    engine: &Engine,
    input: &mut Input,
    products: [(&Matrix, &mut [f32]); N],
    finish: impl Fn(usize, usize, &mut [f32]) + Sync,
) -> Result<(), Error> {
    let &Engine { kernel, pool, .. } = engine;
    let (columns, n_tokens) = (input.columns, input.n_tokens());
    let mut stored = Vec::with_capacity(N);
    for (matrix, _) in &products {
        debug_assert_eq!(input.columns, matrix.columns);
        input.encode(engine, matrix.encoding());
        stored.push(matrix.stored(engine)?);
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
            stored.products(kernel, weights, input, 0, &mut [0; ROWS_BY_ONE], values);
            return finish(i, rows.start, values);
        }
        let mut dots = [0i32; TILE_ROWS * TILE_TOKENS];
        let mut tile = [0f32; TILE_ROWS * TILE_TOKENS];
        for token in (0..n_tokens).step_by(TILE_TOKENS) {
            let n = TILE_TOKENS.min(n_tokens - token);
            let tile = &mut tile[..n * rows.len()];
            stored.products(kernel, weights, input, token, &mut dots, tile);
            for (t, values) in tile.chunks_exact(rows.len()).enumerate() {
                let out = out.row(token + t);
                out.copy_from_slice(values);
                finish(i, rows.start, out);
            }
        }
    });
    Ok(())
}

fn too_small(gguf: &Gguf, info: &TensorInfo) -> Error {
    let what = format!("tensor {:?}: its data do not hold its shape", info.name);
    Error::bad_file(gguf.path(), what)
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
        engine: &Engine,
        input: &mut Input,
        out: &mut [f32],
    ) -> Result<(), Error> {
        Self::apply_all(engine, input, [(self, out)])
    }

    /// [`apply`](Self::apply) of several to the same input, in less time.
    pub(super) fn apply_all<const N: usize>(
        engine: &Engine,
        input: &mut Input,
        products: [(&Linear, &mut [f32]); N],
    ) -> Result<(), Error> {
        let first = products[0].0.weight.encoding();
        if products
            .iter()
            .any(|(linear, _)| linear.weight.encoding() != first)
        {
            for (linear, out) in products {
                linear.apply(engine, input, out)?;
            }
            return Ok(());
        }
        let linears = products.each_ref().map(|(linear, _)| *linear);
        let products = products.map(|(linear, out)| (&linear.weight, out));
        apply_then(engine, input, products, |i, first, values| {
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
    /// Per token.
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
    pub(super) fn as_seen_by(&mut self, engine: &Engine, matrix: &Matrix) -> &[f32] {
        self.encode(engine, matrix.encoding());
        self.floats(0..self.n_tokens())
    }

    fn n_tokens(&self) -> usize {
        self.x.len() / self.columns
    }

    fn floats(&self, tokens: std::ops::Range<usize>) -> &[f32] {
        let x = match self.encoding {
            Encoding::Bf16 => &self.encoded.floats,
            _ => self.x,
        };
        &x[tokens.start * self.columns..tokens.end * self.columns]
    }

    fn codes(&self, tokens: std::ops::Range<usize>, block: usize) -> (&[i8], &[f32]) {
        let blocks = self.columns / block;
        (
            &bytemuck::cast_slice(&self.encoded.codes)
                [tokens.start * self.columns..tokens.end * self.columns],
            &self.encoded.scales[tokens.start * blocks..tokens.end * blocks],
        )
    }

    fn encode(&mut self, engine: &Engine, encoding: Encoding) {
        let &Engine { kernel, pool, .. } = engine;
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
        let block = match encoding {
            Encoding::F32 => return,
            Encoding::Bf16 => {
                floats.resize(x.len(), 0.0);
                return pool.rows(floats, columns, |t, out| {
                    for (out, v) in out.iter_mut().zip(token(t)) {
                        *out = round_to_bf16(*v);
                    }
                });
            }
            Encoding::I8 => columns,
            Encoding::Q8_0 => q8_0::BLOCK,
            Encoding::Q8K => q6_k::BLOCK,
        };
        codes.resize(x.len().div_ceil(64), Line([0; 64]));
        let codes = &mut bytemuck::cast_slice_mut(codes)[..x.len()];
        scales.resize(n_tokens * columns / block, 0.0);
        sums.resize(n_tokens, 0);
        pool.rows_of_three(n_tokens, (codes, scales, sums), |t, codes, scales, sum| {
            vectorize!(
                kernel,
                match encoding {
                    Encoding::I8 => (scales[0], sum[0]) = i2_s::quantize_row(token(t), codes),
                    Encoding::Q8_0 => q8_0::quantize_row(token(t), codes, scales),
                    Encoding::Q8K => q6_k::quantize_row_q8_k(token(t), codes, scales),
                    Encoding::F32 | Encoding::Bf16 => unreachable!("handled above"),
                }
            );
        });
    }
}
