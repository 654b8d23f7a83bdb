//! The products that a forward pass spends its time in, at the shapes of BitNet b1.58 2B4T, on one thread: elements
//! and bytes of weights per second, and their shares of the roofline, which is measured first on the same CPU.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

use bitnet_core::kernels::{Float, Kernel, Rows};
use bitnet_core::quant::i2_s;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use crossval::roofline;

/// Rows and tokens of a tile, as the forward pass has them.
const TILE_ROWS: usize = 32;
const TILE_TOKENS: usize = 64;

/// Weights that are gone through before the first come again, bytes: beyond any cache, as in a model.
const BEYOND_CACHES: usize = 192 << 20;

/// Width of the residual stream, and an eighth of the vocabulary.
const WIDTH: usize = 2560;
const VOCABULARY: usize = 16_032;

/// Wall time, with throughput as shares of the roofline too.
struct Roofline {
    wall: WallTime,
    shares: Shares,
}

struct Shares {
    int8_macs_per_second: Option<f64>,
    read_bytes_per_second: Option<f64>,
}

impl Roofline {
    fn measure() -> Self {
        let cpus = crossval::environment::cpus_by_core().0;
        let roofline = roofline::measure(1, &cpus[..1]);
        Self {
            wall: WallTime,
            shares: Shares {
                int8_macs_per_second: roofline.int8_macs_per_second,
                read_bytes_per_second: roofline.read_bytes_per_second,
            },
        }
    }
}

impl Measurement for Roofline {
    type Intermediate = <WallTime as Measurement>::Intermediate;
    type Value = Duration;

    fn start(&self) -> Self::Intermediate {
        self.wall.start()
    }

    fn end(&self, start: Self::Intermediate) -> Duration {
        self.wall.end(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        self.wall.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &self.shares
    }
}

impl ValueFormatter for Shares {
    fn format_throughput(&self, throughput: &Throughput, ns: f64) -> String {
        let Throughput::ElementsAndBytes { elements, bytes } = *throughput else {
            return WallTime.formatter().format_throughput(throughput, ns);
        };
        let per_second = |n: u64| n as f64 * 1e9 / ns;
        let of = |rate: f64, peak: Option<f64>, name: &str| {
            peak.map_or(String::new(), |peak| {
                format!(" = {:.0}% of {name}", 100.0 * rate / peak)
            })
        };
        let (elements, bytes) = (per_second(elements), per_second(bytes));
        format!(
            "{:.1} Gelem/s{}, {:.2} GB/s{}",
            elements / 1e9,
            of(elements, self.int8_macs_per_second, "the int8 peak"),
            bytes / 1e9,
            of(bytes, self.read_bytes_per_second, "the read bandwidth"),
        )
    }

    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_values(typical, values)
    }

    fn scale_throughputs(
        &self,
        typical: f64,
        throughput: &Throughput,
        values: &mut [f64],
    ) -> &'static str {
        WallTime
            .formatter()
            .scale_throughputs(typical, throughput, values)
    }

    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_for_machines(values)
    }
}

/// Copies of a matrix, one after the other.
struct Weights {
    data: Vec<u8>,
    matrix_bytes: usize,
    rows: usize,
    columns: usize,
    next: Cell<usize>,
}

impl Weights {
    /// `row` repeated.
    fn new(row: &[u8], rows: usize, columns: usize) -> Self {
        let matrix_bytes = row.len() * rows;
        Self {
            data: row.repeat(rows * BEYOND_CACHES.div_ceil(matrix_bytes)),
            matrix_bytes,
            rows,
            columns,
            next: Cell::new(0),
        }
    }

    /// Calls `product` with every tile of the next copy.
    fn for_each_tile(&self, mut product: impl FnMut(Rows)) {
        let start = self.next.get();
        let end = start + self.matrix_bytes;
        self.next.set(if end + self.matrix_bytes > self.data.len() {
            0
        } else {
            end
        });
        let stride = self.matrix_bytes / self.rows;
        for tile in self.data[start..end].chunks_exact(TILE_ROWS * stride) {
            product(Rows {
                data: tile,
                stride,
                n: TILE_ROWS,
                columns: self.columns,
            });
        }
    }

    fn throughput(&self, n_tokens: usize) -> Throughput {
        Throughput::ElementsAndBytes {
            elements: (self.rows * self.columns * n_tokens) as u64,
            bytes: self.matrix_bytes as u64,
        }
    }
}

/// Every kernel of the machine on some tokens.
fn kernels(
    group: &mut BenchmarkGroup<Roofline>,
    weights: &Weights,
    n_tokens: usize,
    product: impl Fn(Kernel, Rows),
) {
    let (rows, columns) = (weights.rows, weights.columns);
    group.throughput(weights.throughput(n_tokens));
    for kernel in Kernel::available() {
        let name = format!("{}/{rows}x{columns}", kernel.name());
        group.bench_function(BenchmarkId::new(name, n_tokens), |b| {
            b.iter(|| weights.for_each_tile(|tile| product(kernel, tile)));
        });
    }
}

fn i2_s_products(c: &mut Criterion<Roofline>) {
    let mut group = c.benchmark_group("i2_s");
    for (rows, columns) in [(2560, 2560), (6912, 2560), (2560, 6912)] {
        let values: [i8; i2_s::BLOCK] = std::array::from_fn(|i| (i * 7 % 3) as i8 - 1);
        let row = i2_s::pack_block(&values).repeat(columns / i2_s::BLOCK);
        let weights = Weights::new(&row, rows, columns);
        for n_tokens in [1, 8, 128] {
            let codes: Vec<i8> = (0..n_tokens * columns).map(|i| (i * 31) as i8).collect();
            kernels(&mut group, &weights, n_tokens, |kernel, tile| {
                for codes in codes.chunks(TILE_TOKENS * columns) {
                    let mut out = [0i32; TILE_ROWS * TILE_TOKENS];
                    let out = &mut out[..codes.len() / columns * TILE_ROWS];
                    kernel.i2_s_dots(tile, codes, out);
                    black_box(out);
                }
            });
        }
    }
    group.finish();
}

/// The output head: as it is in the file, and its compact copy.
fn heads(c: &mut Criterion<Roofline>) {
    let mut group = c.benchmark_group("f16_head");
    let row: Vec<u8> = (0..WIDTH)
        .flat_map(|i| half::f16::from_f32((i % 17) as f32 / 64.0).to_le_bytes())
        .collect();
    let weights = Weights::new(&row, VOCABULARY, WIDTH);
    for n_tokens in [1, 8] {
        let x: Vec<f32> = (0..n_tokens * WIDTH).map(|i| (i % 13) as f32).collect();
        kernels(&mut group, &weights, n_tokens, |kernel, tile| {
            let mut out = [0f32; TILE_ROWS * 8];
            let out = &mut out[..n_tokens * TILE_ROWS];
            kernel.float_dots(Float::F16, tile, &x, out);
            black_box(out);
        });
    }
    group.finish();
    let mut group = c.benchmark_group("compact_head");
    let row: Vec<u8> = (0..WIDTH).map(|i| (i * 31) as u8).collect();
    let weights = Weights::new(&row, VOCABULARY, WIDTH);
    let x: Vec<i16> = (0..WIDTH).map(|i| (i * 31 % 8191) as i16 - 4095).collect();
    kernels(&mut group, &weights, 1, |kernel, tile| {
        let mut out = [0i32; TILE_ROWS];
        kernel.i8_dots(tile, &x, &mut out);
        black_box(&out);
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(Roofline::measure())
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    i2_s_products(&mut criterion);
    heads(&mut criterion);
    criterion.final_summary();
}
