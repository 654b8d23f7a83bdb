use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::blocks::{i2_s, i7, packed, q6_k, q8_0, tq1_0, tq2_0, trits};

fn pack(values: &[i8]) -> Vec<u8> {
    values
        .as_chunks()
        .0
        .iter()
        .flat_map(i2_s::pack_block)
        .collect()
}

fn naive_i2_s(values: &[i8], codes: &[i8], columns: usize) -> Vec<i64> {
    codes
        .chunks(columns)
        .flat_map(|x| {
            values.chunks(columns).map(move |w| {
                w.iter()
                    .zip(x)
                    .map(|(w, x)| (i64::from(*w) + 1) * i64::from(*x))
                    .sum::<i64>()
            })
        })
        .collect()
}

fn check_i2_s(packed: &[u8], values: &[i8], codes: &[i8], columns: usize) {
    let rows = Rows {
        data: packed,
        stride: columns / 4,
        n: values.len() / columns,
        columns,
    };
    let want = naive_i2_s(values, codes, columns);
    for kernel in Kernel::available() {
        let mut out = vec![-1i32; want.len()];
        kernel.i2_s_dots(rows, codes, &mut out);
        let out: Vec<i64> = out.into_iter().map(i64::from).collect();
        assert_eq!(out, want, "{}", kernel.name());
    }
}

#[test]
fn i2_s_extremes_do_not_wrap() {
    for columns in [2048, 2560, 4096, 6912] {
        for weight in [-1i8, 0, 1] {
            let values = vec![weight; 2 * columns];
            let packed = pack(&values);
            for code in [-128i8, -127, 127] {
                for n_tokens in [1, 2, 9] {
                    check_i2_s(&packed, &values, &vec![code; n_tokens * columns], columns);
                }
            }
        }
    }
}

#[test]
fn a_code_that_stands_for_no_weight_counts_as_3() {
    for columns in [1280, 1408, 2560, 6912] {
        // Values of 2, that is codes of 3: no packed tensor of a model has them.
        let values = vec![2i8; 2 * columns];
        for code in [-128i8, 127] {
            for n_tokens in [1, 3, 9] {
                let codes = vec![code; n_tokens * columns];
                check_i2_s(&vec![0xff; 2 * columns / 4], &values, &codes, columns);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Tiles of every size, rows apart, any code and any activation.
    #[test]
    fn i2_s_is_exact(
        (n, blocks, tokens) in (1usize..40, 1usize..14, 1usize..27),
        seed in any::<u64>(),
        padding in 0usize..3,
        extreme in any::<bool>(),
    ) {
        let mut random = Random(seed);
        let (columns, stride) = (blocks * i2_s::BLOCK, blocks * i2_s::BLOCK_BYTES + padding);
        let packed: Vec<u8> = (0..n * stride).map(|_| random.next() as u8).collect();
        let codes: Vec<i8> = (0..tokens * columns)
            .map(|_| match (extreme, random.next() as i8) {
                (false, code) => code,
                (true, code) => if code % 4 == 0 { 127 } else { -128 },
            })
            .collect();
        let mut want = vec![0i32; tokens * n];
        for (t, want) in want.chunks_exact_mut(n).enumerate() {
            for (r, want) in want.iter_mut().enumerate() {
                for c in 0..columns {
                    let (block, j) = (c / i2_s::BLOCK, c % i2_s::BLOCK);
                    let byte = packed[r * stride + block * i2_s::BLOCK_BYTES + j % 32];
                    let code = i32::from(byte >> (6 - 2 * (j / 32)) & 3);
                    *want += code * i32::from(codes[t * columns + c]);
                }
            }
        }
        let rows = Rows { data: &packed, stride, n, columns };
        for kernel in Kernel::available() {
            let mut out = vec![-1i32; tokens * n];
            kernel.i2_s_dots(rows, &codes, &mut out);
            prop_assert_eq!(&out, &want, "{}", kernel.name());
        }
    }

    /// The same as of the codes that were packed, which are those of the test above.
    #[test]
    fn trit_dots_are_exact(
        (n, blocks, tokens) in (1usize..40, 1usize..14, 1usize..27),
        seed in any::<u64>(),
        padding in 0usize..3,
        extreme in any::<bool>(),
    ) {
        let mut random = Random(seed);
        let columns = blocks * i2_s::BLOCK;
        let values: Vec<i8> = (0..n * columns)
            .map(|_| match extreme {
                false => (random.next() % 3) as i8 - 1,
                true => 1,
            })
            .collect();
        let codes: Vec<i8> = (0..tokens * columns)
            .map(|_| match extreme {
                false => random.next() as i8,
                true => -128,
            })
            .collect();
        let rows = pack(&values);
        let rows = Rows { data: &rows, stride: columns / 4, n, columns };
        let mut want = vec![0i32; tokens * n];
        Kernel::by_name("portable").unwrap().i2_s_dots(rows, &codes, &mut want);
        let stride = trits::row_bytes(columns) + padding;
        let mut packed = vec![0xff; n * stride];
        for (r, packed) in packed.chunks_exact_mut(stride).enumerate() {
            let packed = &mut packed[..trits::row_bytes(columns)];
            prop_assert!(trits::pack_row(rows.row(r, columns / 4), packed));
        }
        let rows = Rows { data: &packed, stride, n, columns };
        for kernel in Kernel::available() {
            let mut out = vec![-1i32; tokens * n];
            kernel.trit_dots(rows, &codes, &mut out);
            prop_assert_eq!(&out, &want, "{}", kernel.name());
        }
    }

    #[test]
    fn i8_dots_are_exact(
        (n, columns) in (1usize..10, 1usize..300),
        seed in any::<u64>(),
        padding in 0usize..3,
    ) {
        let mut random = Random(seed);
        let stride = columns + padding;
        let data: Vec<u8> = (0..n * stride).map(|_| random.next() as u8).collect();
        let x: Vec<i16> = (0..columns).map(|_| random.next() as i16).collect();
        let rows = Rows { data: &data, stride, n, columns };
        let row = |r: usize| data[r * stride..][..columns].iter().map(|&w| i32::from(w as i8));
        let want: Vec<i32> =
            (0..n).map(|r| row(r).zip(&x).map(|(w, &x)| w * i32::from(x)).sum()).collect();
        for kernel in Kernel::available() {
            let mut out = vec![-1i32; n];
            kernel.i8_dots(rows, &x, &mut out);
            prop_assert_eq!(&out, &want, "{}", kernel.name());
        }
    }

    #[test]
    fn i7_dots_are_exact(
        (n, columns) in (1usize..10, 1usize..1000),
        seed in any::<u64>(),
        padding in 0usize..3,
        extreme in any::<bool>(),
    ) {
        let mut random = Random(seed);
        let stride = i7::row_bytes(columns) + padding;
        let mut data = vec![0xff; n * stride];
        let mut values = Vec::new();
        for data in data.chunks_exact_mut(stride) {
            let row: Vec<i8> = (0..columns)
                .map(|_| if extreme { -64 } else { (random.next() as i8) >> 1 })
                .collect();
            i7::pack_row(&row, &mut data[..stride - padding]);
            values.push(row);
        }
        let mut x = [0; 2].map(|_| vec![0i8; columns.next_multiple_of(i7::BLOCK)]);
        for x in &mut x {
            x[..columns].fill_with(|| if extreme { 127 } else { random.next() as i8 });
        }
        let dot = |row: &Vec<i8>| {
            let x = x[0].iter().zip(&x[1]).map(|(&h, &l)| 256 * i32::from(h) + i32::from(l));
            row.iter().zip(x).map(|(&w, x)| i32::from(w) * x).sum()
        };
        let want: Vec<i32> = values.iter().map(dot).collect();
        let rows = Rows { data: &data, stride, n, columns };
        for kernel in Kernel::available() {
            let mut out = vec![-1i32; n];
            kernel.i7_dots(rows, [&x[0], &x[1]], &mut out);
            prop_assert_eq!(&out, &want, "{}", kernel.name());
        }
    }

    #[test]
    fn floats_have_the_same_bits_alone_and_together(
        (n, columns, tokens) in (1usize..7, 1usize..200, 1usize..7),
        seed in any::<u64>(),
        padding in 0usize..3,
    ) {
        let mut random = Random(seed);
        let x: Vec<f32> = (0..tokens * columns).map(|_| random.float()).collect();
        for ty in [Float::F32, Float::F16, Float::Bf16] {
            let mut data = Vec::new();
            for _ in 0..n {
                for _ in 0..columns {
                    let v = random.float();
                    match ty {
                        Float::F32 => data.extend(v.to_le_bytes()),
                        Float::F16 => data.extend(f16::from_f32(v).to_le_bytes()),
                        Float::Bf16 => data.extend(bf16::from_f32(v).to_le_bytes()),
                    }
                }
                data.extend(vec![0xff; padding]);
            }
            let stride = columns * ty.bytes() + padding;
            let rows = Rows { data: &data, stride, n, columns };
            let mut want = vec![0f32; n * tokens];
            Kernel(Isa::Portable).float_dots(ty, rows, &x, &mut want);
            for kernel in Kernel::available() {
                let mut out = vec![f32::NAN; n * tokens];
                kernel.float_dots(ty, rows, &x, &mut out);
                assert_bits(&out, &want);
                for t in 0..tokens {
                    for r in 0..n {
                        let row = Rows { data: &data[r * stride..], n: 1, ..rows };
                        let mut one = [f32::NAN];
                        kernel.float_dots(ty, row, &x[t * columns..][..columns], &mut one);
                        assert_bits(&one, &want[t * n + r..][..1]);
                    }
                }
            }
        }
        let v: Vec<u8> = (0..n * columns).flat_map(|_| f16::from_f32(random.float()).to_le_bytes()).collect();
        let rows = Rows { data: &v, stride: columns * 2, n, columns };
        let p: Vec<f32> = (0..tokens * n).map(|_| random.float()).collect();
        let mut want = vec![0f32; tokens * columns];
        Kernel(Isa::Portable).f16_weighted_sums(rows, &p, &mut want);
        for kernel in Kernel::available() {
            let mut out = vec![f32::NAN; tokens * columns];
            kernel.f16_weighted_sums(rows, &p, &mut out);
            assert_bits(&out, &want);
        }
    }

    /// Tiles of every size, rows apart, any code and any activation; a token has the same bits alone.
    #[test]
    fn ternary_blocks_have_the_same_bits(
        (n, blocks, tokens) in (1usize..40, 1usize..7, 1usize..27),
        seed in any::<u64>(),
        padding in 0usize..3,
        extreme in any::<bool>(),
    ) {
        let mut random = Random(seed);
        let columns = blocks * tq2_0::BLOCK;
        let codes: Vec<i8> = (0..tokens * columns)
            .map(|_| match (extreme, random.next() as i8) {
                (false, code) => code,
                (true, code) => if code % 4 == 0 { 127 } else { -128 },
            })
            .collect();
        let scales: Vec<f32> = (0..tokens * blocks).map(|_| random.float()).collect();
        let sums = codes.chunks(tq2_0::BLOCK).map(|x| x.iter().map(|&x| i32::from(x)).sum());
        let sums: Vec<i32> = sums.collect();
        let x = Q8K { codes: &codes, scales: &scales, sums: &sums };
        type Dots = fn(Kernel, Rows, Q8K, &mut [f32]);
        for (bytes, dots) in [
            (tq1_0::BLOCK_BYTES, Kernel::tq1_0_dots as Dots),
            (tq2_0::BLOCK_BYTES, Kernel::tq2_0_dots),
        ] {
            let stride = blocks * bytes + padding;
            let mut data = vec![0; n * stride];
            for row in data.chunks_exact_mut(stride) {
                for block in row.chunks_exact_mut(bytes) {
                    block.fill_with(|| if extreme { 0xff } else { random.next() as u8 });
                    block[bytes - 2..].copy_from_slice(&f16::from_f32(random.float()).to_le_bytes());
                }
            }
            let rows = Rows { data: &data, stride, n, columns };
            compare(n * tokens, |kernel, out| dots(kernel, rows, x, out));
            let mut together = vec![0f32; n * tokens];
            dots(Kernel(Isa::Portable), rows, x, &mut together);
            let x = Q8K {
                codes: &codes[..columns],
                scales: &scales[..blocks],
                sums: &sums[..blocks],
            };
            for kernel in Kernel::available() {
                let mut alone = vec![f32::NAN; n];
                dots(kernel, rows, x, &mut alone);
                assert_bits(&alone, &together[..n]);
            }
        }
    }

    #[test]
    fn blocks_have_the_same_bits(
        (n, blocks, tokens) in (1usize..4, 1usize..4, 1usize..4),
        seed in any::<u64>(),
        extreme in any::<bool>(),
    ) {
        let mut random = Random(seed);
        let columns = blocks * q6_k::BLOCK;
        let codes: Vec<i8> = (0..tokens * columns)
            .map(|_| if extreme { 127 } else { (random.next() as i8).max(-127) })
            .collect();
        let scales: Vec<f32> = (0..tokens * columns / q8_0::BLOCK).map(|_| random.float()).collect();
        let byte = |random: &mut Random| if extreme { 0x80 } else { random.next() as u8 };

        let mut data = Vec::new();
        for _ in 0..n * columns / q8_0::BLOCK {
            data.extend(f16::from_f32(random.float()).to_le_bytes());
            data.extend((0..q8_0::BLOCK).map(|_| byte(&mut random)));
        }
        let stride = columns / q8_0::BLOCK * q8_0::BLOCK_BYTES;
        compare(n * tokens, |kernel, out| {
            kernel.q8_0_dots(Rows { data: &data, stride, n, columns }, &codes, &scales, out);
        });

        let mut data = Vec::new();
        for _ in 0..n * blocks {
            data.extend((0..q6_k::BLOCK_BYTES - 2).map(|_| byte(&mut random)));
            data.extend(f16::from_f32(random.float()).to_le_bytes());
        }
        let stride = blocks * q6_k::BLOCK_BYTES;
        let scales = &scales[..tokens * blocks];
        compare(n * tokens, |kernel, out| {
            kernel.q6_k_dots(Rows { data: &data, stride, n, columns }, &codes, scales, out);
        });
        // Dequantised rows give the same, but for rounding.
        let mut out = vec![0f32; n * tokens];
        Kernel(Isa::Portable).q6_k_dots(Rows { data: &data, stride, n, columns }, &codes, scales, &mut out);
        let mut row = vec![0f32; columns];
        q6_k::dequantize_row(&data[..stride], &mut row);
        let (mut want, mut size) = (0f64, 0f64);
        for (i, w) in row.iter().enumerate() {
            let product = f64::from(*w) * f64::from(codes[i]) * f64::from(scales[i / q6_k::BLOCK]);
            want += product;
            size += product.abs();
        }
        prop_assert!((f64::from(out[0]) - want).abs() <= size * 1e-5, "{} {want}", out[0]);
    }
}

/// Rows of the widest models, of blocks whose scales are 1: sums are whole numbers, which f32 holds.
#[test]
fn blocks_of_extreme_codes_and_activations_are_exact() {
    type Dots = fn(Kernel, Rows, &[i8], &mut [f32]);
    /// Name, weights and bytes of a block, where its scale is, how a row is decoded, and the products.
    type Case = (
        &'static str,
        usize,
        usize,
        usize,
        fn(&[u8], &mut [f32]),
        Dots,
    );
    /// Activations of scale 1.
    fn q8_k(codes: &[i8], dots: impl FnOnce(Q8K)) {
        let sums = codes
            .chunks(tq2_0::BLOCK)
            .map(|x| x.iter().map(|&x| i32::from(x)).sum());
        let sums: Vec<i32> = sums.collect();
        let scales = vec![1.0; sums.len()];
        dots(Q8K {
            codes,
            scales: &scales,
            sums: &sums,
        });
    }
    fn of_packed<const BITS: usize, const BYTES: usize>(
        kernel: Kernel,
        rows: Rows,
        codes: &[i8],
        out: &mut [f32],
    ) {
        let scales = vec![1.0; codes.len() / q8_0::BLOCK];
        kernel.packed_dots::<BITS, BYTES>(rows, codes, &scales, out);
    }
    let types: [Case; 5] = [
        (
            "TQ1_0",
            tq1_0::BLOCK,
            tq1_0::BLOCK_BYTES,
            tq1_0::BLOCK_BYTES - 2,
            tq1_0::dequantize_row,
            |kernel, rows, codes, out| q8_k(codes, |x| kernel.tq1_0_dots(rows, x, out)),
        ),
        (
            "TQ2_0",
            tq2_0::BLOCK,
            tq2_0::BLOCK_BYTES,
            tq2_0::BLOCK_BYTES - 2,
            tq2_0::dequantize_row,
            |kernel, rows, codes, out| q8_k(codes, |x| kernel.tq2_0_dots(rows, x, out)),
        ),
        (
            "Q1_0",
            128,
            18,
            0,
            packed::dequantize_row::<1, 18>,
            of_packed::<1, 18>,
        ),
        (
            "Q2_0",
            64,
            18,
            0,
            packed::dequantize_row::<2, 18>,
            of_packed::<2, 18>,
        ),
        (
            "Q2_0_128",
            128,
            34,
            0,
            packed::dequantize_row::<2, 34>,
            of_packed::<2, 34>,
        ),
    ];
    for (name, block, bytes, scale, dequantize, dots) in types {
        for columns in [block, 2560, 14336] {
            let blocks = columns / block;
            // All codes the least, all the largest, and each beside the other.
            for fill in [[0x00, 0x00], [0xff, 0xff], [0x00, 0xff]] {
                let n = 3;
                let mut data: Vec<u8> = (0..n * blocks * bytes).map(|i| fill[i % 2]).collect();
                for block in data.chunks_exact_mut(bytes) {
                    block[scale..scale + 2].copy_from_slice(&f16::ONE.to_le_bytes());
                }
                let mut row = vec![0.0; columns];
                dequantize(&data[..blocks * bytes], &mut row);
                let rows = Rows {
                    data: &data,
                    stride: blocks * bytes,
                    n,
                    columns,
                };
                for activations in [[127, 127], [-127, -127], [127, -127]] {
                    for n_tokens in [1, 2, 9] {
                        let codes: Vec<i8> = (0..n_tokens * columns)
                            .map(|i| activations[i % 2])
                            .collect();
                        let products = row.iter().zip(&codes);
                        let want: i64 = products.map(|(w, x)| *w as i64 * i64::from(*x)).sum();
                        for kernel in Kernel::available() {
                            let mut out = vec![f32::NAN; n * n_tokens];
                            dots(kernel, rows, &codes, &mut out);
                            let exact = out.iter().all(|y| *y == want as f32);
                            let which = kernel.name();
                            assert!(exact, "{which} {name} {columns} {fill:?}: {want} {out:?}");
                        }
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Panels and tokens of every number, rows apart, any codes and scales.
    #[test]
    fn packed_blocks_have_the_same_bits(
        (n, blocks, tokens) in (1usize..40, 1usize..5, 1usize..20),
        seed in any::<u64>(),
        padding in 0usize..3,
        extreme in any::<bool>(),
    ) {
        let shape = (n, blocks, tokens, padding);
        compare_packed::<1, 18>(shape, extreme, seed)?;
        compare_packed::<2, 18>(shape, extreme, seed)?;
        compare_packed::<2, 34>(shape, extreme, seed)?;
    }
}

fn compare_packed<const BITS: usize, const BYTES: usize>(
    (n, blocks, tokens, padding): (usize, usize, usize, usize),
    extreme: bool,
    seed: u64,
) -> Result<(), TestCaseError> {
    let mut random = Random(seed);
    let columns = blocks * packed::block(BITS, BYTES);
    let codes: Vec<i8> = (0..tokens * columns)
        .map(|_| match (extreme, random.next() as i8) {
            (false, code) => code.max(-127),
            (true, code) => 127 * code.signum(),
        })
        .collect();
    let scales: Vec<f32> = (0..codes.len() / 32).map(|_| random.float()).collect();
    let stride = blocks * BYTES + padding;
    let mut data = Vec::new();
    for _ in 0..n {
        for _ in 0..blocks {
            data.extend(f16::from_f32(random.float()).to_le_bytes());
            data.extend((2..BYTES).map(|_| if extreme { 0xff } else { random.next() as u8 }));
        }
        data.resize(data.len() + padding, 0xff);
    }
    let rows = Rows {
        data: &data,
        stride,
        n,
        columns,
    };
    compare(n * tokens, |kernel, out| {
        kernel.packed_dots::<BITS, BYTES>(rows, &codes, &scales, out);
    });
    // Dequantised rows give the same, but for rounding.
    let mut out = vec![0f32; n * tokens];
    Kernel(Isa::Portable).packed_dots::<BITS, BYTES>(rows, &codes, &scales, &mut out);
    let mut row = vec![0f32; columns];
    packed::dequantize_row::<BITS, BYTES>(&data[(n - 1) * stride..][..stride - padding], &mut row);
    let (mut want, mut size) = (0f64, 0f64);
    for (i, w) in row.iter().enumerate() {
        let product = f64::from(*w) * f64::from(codes[i]) * f64::from(scales[i / 32]);
        want += product;
        size += product.abs();
    }
    let got = f64::from(out[n - 1]);
    prop_assert!((got - want).abs() <= size * 1e-6, "{got} {want}");
    Ok(())
}

fn compare(len: usize, run: impl Fn(Kernel, &mut [f32])) {
    let mut want = vec![0f32; len];
    run(Kernel(Isa::Portable), &mut want);
    for kernel in Kernel::available() {
        let mut out = vec![f32::NAN; len];
        run(kernel, &mut out);
        assert_bits(&out, &want);
    }
}

fn assert_bits(a: &[f32], b: &[f32]) {
    let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(a), bits(b), "{a:?} {b:?}");
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 22) as f32 - 2.0
    }
}

#[test]
fn kernels_by_name() {
    for kernel in Kernel::available() {
        assert_eq!(Kernel::by_name(kernel.name()).unwrap(), kernel);
    }
    assert_eq!(Kernel::available()[0].name(), "portable");
    // The environment's choice, so that a test run that asks for a kernel fails where it is missing.
    let fastest = Kernel::available().last().unwrap().name().to_owned();
    let wanted = std::env::var(KERNEL_VARIABLE).unwrap_or(fastest);
    assert_eq!(Kernel::select().unwrap().name(), wanted);
    let error = Kernel::by_name("mmx").unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Usage);
    assert!(error.to_string().contains("\"mmx\"") && error.to_string().contains("portable"));
}
