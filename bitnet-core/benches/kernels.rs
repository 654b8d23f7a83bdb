//! The products that a forward pass spends its time in, at the shapes of BitNet b1.58 2B4T, on one thread.

use std::hint::black_box;
use std::time::Duration;

use bitnet_core::kernels::{Float, Kernel, Rows};
use bitnet_core::quant::i2_s;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Rows and tokens of a tile; the forward pass computes as many at a time.
const TILE: usize = 32;
const TILE_TOKENS: usize = 64;

fn i2_s_products(c: &mut Criterion) {
    let mut group = c.benchmark_group("i2_s");
    for (columns, rows) in [(2560, 2560), (2560, 6912), (6912, 2560)] {
        let values: [i8; i2_s::BLOCK] = std::array::from_fn(|i| (i * 7 % 3) as i8 - 1);
        let weights = i2_s::pack_block(&values).repeat(rows * columns / i2_s::BLOCK);
        for n_tokens in [1, 8, 128] {
            let codes: Vec<i8> = (0..n_tokens * columns).map(|i| (i * 31) as i8).collect();
            group.throughput(Throughput::ElementsAndBytes {
                elements: (rows * columns * n_tokens) as u64,
                bytes: weights.len() as u64,
            });
            for kernel in Kernel::available() {
                let name = format!("{}/{rows}x{columns}", kernel.name());
                group.bench_function(BenchmarkId::new(name, n_tokens), |b| {
                    b.iter(|| {
                        for tile in weights.chunks_exact(TILE * columns / 4) {
                            for codes in codes.chunks(TILE_TOKENS * columns) {
                                let mut out = [0i32; TILE * TILE_TOKENS];
                                let out = &mut out[..codes.len() / columns * TILE];
                                kernel.i2_s_dots(rows_of(tile, columns / 4, columns), codes, out);
                                black_box(out);
                            }
                        }
                    });
                });
            }
        }
    }
    group.finish();
}

fn f16_head(c: &mut Criterion) {
    const COLUMNS: usize = 2560;
    const ROWS: usize = 16_032; // an eighth of the vocabulary
    let mut group = c.benchmark_group("f16_head");
    let weights: Vec<u8> = (0..ROWS * COLUMNS)
        .flat_map(|i| half::f16::from_f32((i % 17) as f32 / 64.0).to_le_bytes())
        .collect();
    group.throughput(Throughput::Bytes(weights.len() as u64));
    for n_tokens in [1, 8] {
        let x: Vec<f32> = (0..n_tokens * COLUMNS).map(|i| (i % 13) as f32).collect();
        for kernel in Kernel::available() {
            group.bench_function(BenchmarkId::new(kernel.name(), n_tokens), |b| {
                b.iter(|| {
                    for tile in weights.chunks_exact(TILE * COLUMNS * 2) {
                        let mut out = [0f32; TILE * 8];
                        let out = &mut out[..n_tokens * TILE];
                        kernel.float_dots(Float::F16, rows_of(tile, COLUMNS * 2, COLUMNS), &x, out);
                        black_box(out);
                    }
                });
            });
        }
    }
    group.finish();
}

fn rows_of(data: &[u8], stride: usize, columns: usize) -> Rows<'_> {
    Rows {
        data,
        stride,
        n: TILE,
        columns,
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = i2_s_products, f16_head
}
criterion_main!(benches);
