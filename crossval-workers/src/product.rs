//! Matrix products by themselves, with weights that come from memory and not from a cache, as in a model.

use std::cell::Cell;
use std::hint::black_box;

use bitnet_core::blocks::{i2_s, i7, packed, q8_0, tq1_0, tq2_0, trits};
use bitnet_core::kernels::{Float, Kernel, Q8K, Rows};

/// Rows and tokens of a tile, as the forward pass has them.
const TILE_ROWS: usize = 32;
const TILE_TOKENS: usize = 128;
/// Rows of a tile of one token.
const ROWS_BY_ONE: usize = 256;

/// Of the activations' codes, bytes.
const ALIGNMENT: usize = 64;

/// Weights that are gone through before the first come again, bytes: beyond any cache.
const BEYOND_CACHES: usize = 192 << 20;

/// How the weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Ternary, as in the model file.
    I2S,
    /// The same, repacked for decoding.
    Trits,
    /// Ternary blocks with a scale each, five weights to a byte.
    Tq1_0,
    /// The same, of 2 bits.
    Tq2_0,
    /// Signs, and a scale per 128.
    Q1_0,
    /// Codes of two bits, and a scale per 64.
    Q2_0,
    /// As many an output head.
    F16,
    /// The copy of an output head, of 8 bits.
    I8,
    /// The same, of 7 bits.
    I7,
}

/// A matrix, some tokens, and their product.
pub struct Product {
    storage: Storage,
    rows: usize,
    columns: usize,
    tokens: usize,
    /// Copies of the matrix, one after the other.
    weights: Vec<u8>,
    next: Cell<usize>,
    /// Activations in the form that the storage takes.
    codes: Vec<i8>,
    wide: Vec<i16>,
    floats: Vec<f32>,
    /// Of blocks of codes.
    sums: Vec<i32>,
}

impl Product {
    /// `None` if there is nothing to compute, or the storage has no rows of such a length; a compact head takes one
    /// token at a time.
    pub fn new(storage: Storage, rows: usize, columns: usize, tokens: usize) -> Option<Product> {
        let fits = match storage {
            Storage::I2S | Storage::Trits => columns.is_multiple_of(i2_s::BLOCK),
            Storage::Tq1_0 | Storage::Tq2_0 => columns.is_multiple_of(tq2_0::BLOCK),
            Storage::Q1_0 => columns.is_multiple_of(packed::block(1, 18)),
            Storage::Q2_0 => columns.is_multiple_of(packed::block(2, 18)),
            Storage::F16 => true,
            Storage::I8 | Storage::I7 => tokens == 1,
        };
        if !fits || rows == 0 || columns == 0 || tokens == 0 {
            return None;
        }
        let row: Vec<u8> = match storage {
            Storage::I2S => {
                let values: [i8; i2_s::BLOCK] = std::array::from_fn(|i| (i * 7 % 3) as i8 - 1);
                i2_s::pack_block(&values).repeat(columns / i2_s::BLOCK)
            }
            Storage::Tq1_0 => {
                let values = std::array::from_fn(|i| (i * 7 % 3) as i8 - 1);
                tq1_0::pack_block(&values, half::f16::ONE).repeat(columns / tq1_0::BLOCK)
            }
            Storage::Tq2_0 => {
                let values = std::array::from_fn(|i| (i * 7 % 3) as i8 - 1);
                tq2_0::pack_block(&values, half::f16::ONE).repeat(columns / tq2_0::BLOCK)
            }
            Storage::Q1_0 | Storage::Q2_0 => {
                let d = half::f16::from_f32(0.01).to_le_bytes();
                let codes = (0..16u8).map(|i| i.wrapping_mul(31));
                let block: Vec<u8> = d.into_iter().chain(codes).collect();
                let bits = if storage == Storage::Q1_0 { 1 } else { 2 };
                block.repeat(columns / packed::block(bits, block.len()))
            }
            Storage::F16 => (0..columns)
                .flat_map(|i| half::f16::from_f32((i % 17) as f32 / 64.0).to_le_bytes())
                .collect(),
            Storage::Trits => (0..trits::row_bytes(columns))
                .map(|i| (i * 31 % 243) as u8)
                .collect(),
            Storage::I8 => (0..columns).map(|i| (i * 31) as u8).collect(),
            Storage::I7 => (0..i7::row_bytes(columns))
                .map(|i| (i * 31) as u8)
                .collect(),
        };
        let copies = BEYOND_CACHES.div_ceil(row.len() * rows);
        Some(Product {
            storage,
            rows,
            columns,
            tokens,
            weights: row.repeat(rows * copies),
            next: Cell::new(0),
            codes: (0..tokens * columns.next_multiple_of(i7::BLOCK) + ALIGNMENT)
                .map(|i| (i * 31) as i8)
                .collect(),
            wide: (0..columns)
                .map(|i| (i * 31 % 8191) as i16 - 4095)
                .collect(),
            floats: (0..tokens * columns).map(|i| (i % 13) as f32).collect(),
            sums: (0..tokens * columns.div_ceil(tq2_0::BLOCK))
                .map(|i| i as i32 % 101)
                .collect(),
        })
    }

    /// Multiply-accumulates of one product.
    pub fn macs(&self) -> u64 {
        (self.rows * self.columns * self.tokens) as u64
    }

    /// Bytes of weights that one product reads.
    pub fn weight_bytes(&self) -> u64 {
        (self.row_bytes() * self.rows) as u64
    }

    /// Aligned as in the forward pass.
    fn codes(&self) -> &[i8] {
        let start = self.codes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        &self.codes[start..]
    }

    fn row_bytes(&self) -> usize {
        match self.storage {
            Storage::I2S => self.columns / i2_s::BLOCK * i2_s::BLOCK_BYTES,
            Storage::Tq1_0 => self.columns / tq1_0::BLOCK * tq1_0::BLOCK_BYTES,
            Storage::Tq2_0 => self.columns / tq2_0::BLOCK * tq2_0::BLOCK_BYTES,
            Storage::Q1_0 => self.columns / packed::block(1, 18) * 18,
            Storage::Q2_0 => self.columns / packed::block(2, 18) * 18,
            Storage::F16 => self.columns * 2,
            Storage::Trits => trits::row_bytes(self.columns),
            Storage::I8 => self.columns,
            Storage::I7 => i7::row_bytes(self.columns),
        }
    }

    /// Computes it once, with the next copy of the matrix.
    pub fn run(&self, kernel: Kernel) {
        let (stride, start) = (self.row_bytes(), self.next.get());
        let end = start + stride * self.rows;
        self.next
            .set(if end == self.weights.len() { 0 } else { end });
        let tile_rows = match self.tokens {
            1 => ROWS_BY_ONE,
            _ => TILE_ROWS,
        };
        for data in self.weights[start..end].chunks(tile_rows * stride) {
            self.run_tile(
                kernel,
                Rows {
                    data,
                    stride,
                    n: data.len() / stride,
                    columns: self.columns,
                },
            );
        }
    }

    fn run_tile(&self, kernel: Kernel, tile: Rows) {
        match self.storage {
            Storage::I2S | Storage::Trits => {
                let codes = &self.codes()[..self.tokens * self.columns];
                for codes in codes.chunks(TILE_TOKENS * self.columns) {
                    let mut out = [0i32; TILE_ROWS * TILE_TOKENS];
                    let out = &mut out[..codes.len() / self.columns * tile.n];
                    match self.storage {
                        Storage::Trits => kernel.trit_dots(tile, codes, out),
                        _ => kernel.i2_s_dots(tile, codes, out),
                    }
                    black_box(out);
                }
            }
            Storage::Tq1_0 | Storage::Tq2_0 => {
                let blocks = self.columns / tq2_0::BLOCK;
                for first in (0..self.tokens).step_by(TILE_TOKENS) {
                    let n = TILE_TOKENS.min(self.tokens - first);
                    let x = Q8K {
                        codes: &self.codes()[first * self.columns..][..n * self.columns],
                        scales: &self.floats[first * blocks..][..n * blocks],
                        sums: &self.sums[first * blocks..][..n * blocks],
                    };
                    let mut out = [0f32; TILE_ROWS * TILE_TOKENS];
                    let out = &mut out[..n * tile.n];
                    match self.storage {
                        Storage::Tq1_0 => kernel.tq1_0_dots(tile, x, out),
                        _ => kernel.tq2_0_dots(tile, x, out),
                    }
                    black_box(out);
                }
            }
            Storage::Q1_0 | Storage::Q2_0 => {
                let codes = &self.codes()[..self.tokens * self.columns];
                for codes in codes.chunks(TILE_TOKENS * self.columns) {
                    let scales = &self.floats[..codes.len() / q8_0::BLOCK];
                    let mut out = [0f32; TILE_ROWS * TILE_TOKENS];
                    let out = &mut out[..codes.len() / self.columns * tile.n];
                    match self.storage {
                        Storage::Q1_0 => kernel.packed_dots::<1, 18>(tile, codes, scales, out),
                        _ => kernel.packed_dots::<2, 18>(tile, codes, scales, out),
                    }
                    black_box(out);
                }
            }
            Storage::F16 => {
                for x in self.floats.chunks(TILE_TOKENS * self.columns) {
                    let mut out = [0f32; TILE_ROWS * TILE_TOKENS];
                    let out = &mut out[..x.len() / self.columns * tile.n];
                    kernel.float_dots(Float::F16, tile, x, out);
                    black_box(out);
                }
            }
            Storage::I8 => {
                let mut out = [0i32; ROWS_BY_ONE];
                kernel.i8_dots(tile, &self.wide, &mut out[..tile.n]);
                black_box(&out);
            }
            Storage::I7 => {
                let mut out = [0i32; ROWS_BY_ONE];
                let half = &self.codes()[..self.columns.next_multiple_of(i7::BLOCK)];
                kernel.i7_dots(tile, [half, half], &mut out[..tile.n]);
                black_box(&out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_any_shape_run_on_every_kernel() {
        for (storage, tokens, row_bytes) in [
            (Storage::I2S, 3, 64),
            (Storage::F16, 3, 512),
            (Storage::Trits, 3, 64),
            (Storage::Tq1_0, 3, 54),
            (Storage::Tq2_0, 3, 66),
            (Storage::Q1_0, 3, 36),
            (Storage::Q2_0, 3, 72),
            (Storage::I8, 1, 256),
            (Storage::I7, 1, 448),
        ] {
            // The last tile is a part of one.
            let product = Product::new(storage, 40, 256, tokens).unwrap();
            assert_eq!(product.macs(), 40 * 256 * tokens as u64);
            assert_eq!(product.weight_bytes(), 40 * row_bytes);
            for kernel in Kernel::available() {
                product.run(kernel);
            }
        }
        assert!(Product::new(Storage::I2S, 40, 100, 1).is_none());
        assert!(Product::new(Storage::Tq2_0, 40, 128, 1).is_none());
        assert!(Product::new(Storage::F16, 0, 100, 1).is_none());
    }
}
