//! The products that a forward pass spends its time in, at the shapes of BitNet b1.58 2B4T, on one thread: elements
//! and bytes of weights per second, and their shares of the roofline, which is measured first on the same CPU.

use std::time::Duration;

use bitnet_core::kernels::Kernel;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use crossval::speed::roofline;
use crossval_workers::product::{Product, Storage};

/// An eighth of the vocabulary, by the width of the residual stream.
const HEAD: (usize, usize) = (16_032, 2560);

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

/// Every kernel of the machine that uses the storage on one product.
fn kernels(
    group: &mut BenchmarkGroup<Roofline>,
    storage: Storage,
    (rows, columns): (usize, usize),
    tokens: usize,
) {
    let uses = |kernel: &Kernel| match storage {
        Storage::Trits => kernel.prefers_trits(),
        Storage::I7 => kernel.prefers_i7(),
        _ => true,
    };
    let product = Product::new(storage, rows, columns, tokens).expect("a shape of the storage");
    group.throughput(Throughput::ElementsAndBytes {
        elements: product.macs(),
        bytes: product.weight_bytes(),
    });
    for kernel in Kernel::available().into_iter().filter(uses) {
        let name = format!("{}/{rows}x{columns}", kernel.name());
        group.bench_function(BenchmarkId::new(name, tokens), |b| {
            b.iter(|| product.run(kernel))
        });
    }
}

fn products(c: &mut Criterion<Roofline>) {
    for (name, storage) in [
        ("i2_s", Storage::I2S),
        ("trits", Storage::Trits),
        ("tq1_0", Storage::Tq1_0),
        ("tq2_0", Storage::Tq2_0),
        ("q1_0", Storage::Q1_0),
        ("q2_0", Storage::Q2_0),
    ] {
        let mut group = c.benchmark_group(name);
        for shape in [(2560, 2560), (6912, 2560), (2560, 6912)] {
            for tokens in [1, 8, 128] {
                kernels(&mut group, storage, shape, tokens);
            }
        }
        group.finish();
    }
}

/// The output head: as it is in the file, and its compact copies.
fn heads(c: &mut Criterion<Roofline>) {
    let mut group = c.benchmark_group("f16_head");
    for tokens in [1, 8] {
        kernels(&mut group, Storage::F16, HEAD, tokens);
    }
    group.finish();
    for (name, storage) in [("i8_head", Storage::I8), ("i7_head", Storage::I7)] {
        let mut group = c.benchmark_group(name);
        kernels(&mut group, storage, HEAD, 1);
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(Roofline::measure())
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    products(&mut criterion);
    heads(&mut criterion);
    criterion.final_summary();
}
