//! What no weight should be.

use std::collections::BTreeMap;

use half::{bf16, f16};

use crate::Error;
use crate::gguf::{Content, Float, Gguf, Layout, Nibbles, TensorInfo};
use crate::zeros;

/// What the weights of a file were found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// As [`check_weights`].
    pub bad: Vec<String>,
    /// Tensors of which every weight is 0, as [`zero_tensors`].
    pub zero: Vec<String>,
    /// One message for each tensor of which some scales are 0, and not all.
    pub zero_scales: Vec<String>,
    /// One message for each tensor that holds +2, which a ternary model does not have.
    pub twos: Vec<String>,
    /// Tensors that were looked through, by the name of their type.
    pub checked: BTreeMap<String, u64>,
    /// Tensors that were not, as their type cannot be read.
    pub not_checked: BTreeMap<String, u64>,
}

/// Looks through all weights of a file, and says which it could not.
///
/// # Errors
/// The data cannot be read.
pub fn weights(gguf: &Gguf) -> Result<Weights, Error> {
    let mut weights = Weights::default();
    for info in gguf.tensors() {
        let Some(layout) = layout(info) else {
            *weights.not_checked.entry(info.ty.to_string()).or_default() += 1;
            continue;
        };
        *weights.checked.entry(info.ty.to_string()).or_default() += 1;
        let data = gguf.data(info)?;
        let named = |what| format!("tensor {:?}: {what}", info.name);
        weights.bad.extend(finding(info, layout, data).map(named));
        weights.twos.extend(twos(info, layout, data).map(named));
        match is_zero(info, layout, data) {
            true => weights.zero.push(info.name.clone()),
            false => weights
                .zero_scales
                .extend(zero_scales(layout, data).map(named)),
        }
    }
    Ok(weights)
}

/// The layout of a tensor that can be looked through: one in tiles of a size that is not known cannot.
fn layout(info: &TensorInfo) -> Option<Layout> {
    let layout = info.ty.layout()?;
    let in_tiles = layout.content == Content::Tiled;
    (!in_tiles || info.tiling().is_some_and(|tiling| tiling.is_ok())).then_some(layout)
}

/// The weights of a tensor, and what is behind them.
fn split(layout: Layout, data: &[u8]) -> Option<(&[u8], &[u8])> {
    let weights = data.len().checked_sub(layout.trailer_bytes as usize)?;
    data.split_at_checked(weights)
}

/// How many codes stand for +2, if any do.
fn twos(info: &TensorInfo, layout: Layout, data: &[u8]) -> Option<String> {
    let codes = info.ty.codes_up_to_two()?;
    let blocks = data.chunks_exact(layout.block_bytes as usize);
    let twos: u64 = blocks
        .map(|block| undefined_codes(&block[codes.clone()]))
        .sum();
    let n = info.n_elements();
    (twos > 0).then(|| format!("{twos} of {n} codes are 3, which stands for +2"))
}

/// How many scales of blocks are 0, if any are.
fn zero_scales(layout: Layout, data: &[u8]) -> Option<String> {
    let Content::Scaled(scales) = layout.content else {
        return None;
    };
    let blocks = data.chunks_exact(layout.block_bytes as usize);
    let of = blocks.len() * scales.len();
    let zero = |block: &[u8]| {
        let scales = scales.iter();
        let zero =
            scales.filter(|&&(float, first)| none_but_zero(float, &block[first..], block.len()));
        zero.count()
    };
    let n: usize = blocks.map(zero).sum();
    (n > 0).then(|| format!("{n} of {of} scales are 0"))
}

/// Looks through the weights of a file, which loading a model does not: one message for each tensor that holds values
/// or scales that are not finite, or, if ternary, codes 3, which stand for no weight. Tensors of unknown type are left
/// out.
///
/// # Errors
/// The data cannot be read.
pub fn check_weights(gguf: &Gguf) -> Result<Vec<String>, Error> {
    let mut findings = Vec::new();
    for info in gguf.tensors() {
        if let Some(layout) = layout(info)
            && let Some(what) = finding(info, layout, gguf.data(info)?)
        {
            findings.push(format!("tensor {:?}: {what}", info.name));
        }
    }
    Ok(findings)
}

/// The tensors whose every weight is 0, so that whatever is computed from them is the same in every engine. Biases are left
/// out: one of zeros adds nothing, as it should.
///
/// # Errors
/// The data cannot be read.
pub fn zero_tensors(gguf: &Gguf) -> Result<Vec<String>, Error> {
    let mut zero = Vec::new();
    for info in gguf.tensors() {
        if let Some(layout) = layout(info)
            && is_zero(info, layout, gguf.data(info)?)
        {
            zero.push(info.name.clone());
        }
    }
    Ok(zero)
}

fn is_zero(info: &TensorInfo, layout: Layout, data: &[u8]) -> bool {
    if info.name.ends_with(".bias") {
        return false;
    }
    let Some((data, trailer)) = split(layout, data) else {
        return false;
    };
    let stride = layout.block_bytes as usize;
    let of_blocks = match layout.content {
        Content::Float(float) => none_but_zero(float, data, stride),
        Content::Scaled(scales) => {
            let of_codes = zeros::of(info.ty);
            let mut blocks = data.chunks_exact(stride);
            blocks.all(|block| {
                let mut scales = scales.iter();
                scales.any(|&(float, first)| none_but_zero(float, &block[first..], stride))
                    || of_codes.is_some_and(|are_zero| are_zero(block))
            })
        }
        Content::Ternary => zeros::two_bits(data),
        Content::Tiled => info.nibbles(data).is_some_and(|codes| {
            let zero = |n: &Nibbles| n.bytes.iter().all(|&byte| byte == n.zero * 0x11);
            codes.iter().all(zero)
        }),
    };
    let of_trailer = trailer
        .first_chunk()
        .is_some_and(|scale| f32::from_le_bytes(*scale) == 0.0);
    of_blocks || of_trailer
}

/// Whether the floats at the start of every `stride` bytes are all 0.
fn none_but_zero(float: Float, data: &[u8], stride: usize) -> bool {
    let mut floats = data.chunks(stride);
    match float {
        Float::F32 => floats.all(|v| {
            v.first_chunk()
                .is_none_or(|v| f32::from_le_bytes(*v) == 0.0)
        }),
        Float::F16 | Float::Bf16 => {
            // The sign aside.
            floats.all(|v| {
                v.first_chunk()
                    .is_none_or(|v| u16::from_le_bytes(*v) << 1 == 0)
            })
        }
    }
}

fn finding(info: &TensorInfo, layout: Layout, data: &[u8]) -> Option<String> {
    let n = info.n_elements();
    let blocks = n / layout.block_len;
    let (data, trailer) = split(layout, data)?;
    let of_blocks = match layout.content {
        Content::Float(float) => {
            let bad = not_finite(float, data, layout.block_bytes as usize);
            (bad > 0).then(|| format!("{bad} of {n} values are not finite"))
        }
        Content::Scaled(scales) => {
            let stride = layout.block_bytes as usize;
            let bad = |&(float, first)| not_finite(float, &data[first..], stride);
            let bad: usize = scales.iter().map(bad).sum();
            let of = blocks * scales.len() as u64;
            (bad > 0).then(|| format!("{bad} of {of} scales are not finite"))
        }
        Content::Ternary => {
            let bad = undefined_codes(data);
            (bad > 0).then(|| format!("{bad} of {n} codes are 3, which stands for no weight"))
        }
        Content::Tiled => {
            let codes = info.nibbles(data)?;
            let bad: usize = codes.iter().map(Nibbles::undefined).sum();
            let of: usize = codes.iter().map(|codes| 2 * codes.bytes.len()).sum();
            (bad > 0).then(|| format!("{bad} of {of} codes stand for no weights"))
        }
    };
    let of_trailer = || {
        let scale = f32::from_le_bytes(*trailer.first_chunk()?);
        (!scale.is_finite()).then(|| "its scale is not finite".to_owned())
    };
    of_blocks.or_else(of_trailer)
}

/// How many of the floats at the start of every `stride` bytes are not finite.
fn not_finite(float: Float, data: &[u8], stride: usize) -> usize {
    match float {
        Float::F32 => count(data, stride, |v| !f32::from_le_bytes(v).is_finite()),
        Float::F16 => count(data, stride, |v| !f16::from_le_bytes(v).is_finite()),
        Float::Bf16 => count(data, stride, |v| !bf16::from_le_bytes(v).is_finite()),
    }
}

fn count<const N: usize>(data: &[u8], stride: usize, bad: impl Fn([u8; N]) -> bool) -> usize {
    // Side by side, they can be looked at in vectors.
    if stride == N {
        return data.as_chunks().0.iter().filter(|v| bad(**v)).count();
    }
    let floats = data.chunks(stride).filter_map(|block| block.first_chunk());
    floats.filter(|v| bad(**v)).count()
}

/// How many of the codes in packed rows are 3, which stands for no weight.
fn undefined_codes(packed: &[u8]) -> u64 {
    // A code is 3 where both of its bits are set.
    let both = |w: u64| w & (w >> 1) & 0x5555_5555_5555_5555;
    let (words, rest) = packed.as_chunks::<8>();
    let words = words.iter().map(|w| u64::from_le_bytes(*w));
    let rest = rest.iter().map(|&w| u64::from(w));
    words
        .chain(rest)
        .map(|w| u64::from(both(w).count_ones()))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::TensorType;

    const INFINITE: [(Float, &[u8]); 3] = [
        (Float::F32, &[0, 0, 0x80, 0x7f]),
        (Float::F16, &[0, 0x7c]),
        (Float::Bf16, &[0x80, 0x7f]),
    ];

    /// A tensor of `n` elements.
    fn row(ty: TensorType, n: u64) -> TensorInfo {
        tensor(ty, vec![n])
    }

    fn tensor(ty: TensorType, shape: Vec<u64>) -> TensorInfo {
        TensorInfo {
            name: "w".to_owned(),
            size: ty.data_size(&shape).unwrap(),
            shape,
            ty,
            part: 0,
            offset: 0,
        }
    }

    /// Types whose tensors may have any number of blocks.
    fn types_of_blocks() -> impl Iterator<Item = TensorType> {
        let known = TensorType::KNOWN.iter().copied();
        known.filter(|ty| ty.layout().unwrap().content != Content::Tiled)
    }

    #[test]
    fn tiles_are_looked_through() {
        for ty in [TensorType::TL1, TensorType::TL2, TensorType::TL2_42] {
            let info = tensor(ty, vec![1536, 1536]);
            let layout = layout(&info).unwrap();
            let mut zero = vec![0; info.size as usize];
            let weights = zero.len() - layout.trailer_bytes as usize;
            zero[weights..][..4].copy_from_slice(&1f32.to_le_bytes());
            let zeros = if ty == TensorType::TL1 { 0x44 } else { 0 };
            zero[..weights].fill(zeros);
            assert!(is_zero(&info, layout, &zero), "{ty}");
            assert_eq!(finding(&info, layout, &zero), None, "{ty}");
            let mut bad = zero.clone();
            bad[7] = 0xf5;
            assert!(!is_zero(&info, layout, &bad), "{ty}");
            let of = if ty == TensorType::TL1 {
                1536 * 1536 / 2
            } else {
                1536 * 1536 / 3
            };
            let want = format!("1 of {of} codes stand for no weights");
            assert_eq!(finding(&info, layout, &bad), Some(want), "{ty}");
            let mut scale = zero.clone();
            scale[weights..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
            let want = Some("its scale is not finite".to_owned());
            assert_eq!(finding(&info, layout, &scale), want, "{ty}");
            scale[weights..][..4].fill(0);
            scale[0] = 0x55;
            assert!(is_zero(&info, layout, &scale), "{ty}");
            // What it is tiled in is not known.
            assert_eq!(super::layout(&tensor(ty, vec![512, 128])), None, "{ty}");
        }
        // A row of TL2 ends in twos, which have other codes.
        let info = tensor(TensorType::TL2, vec![4096, 1536]);
        let layout = layout(&info).unwrap();
        let mut data = vec![0; info.size as usize];
        let last = 1536 * (4032 / 6 + 4032 / 24 + 64 / 4) - 1;
        assert!(!is_zero(&info, layout, &{
            let mut data = data.clone();
            data[info.size as usize - 32..][..4].copy_from_slice(&1f32.to_le_bytes());
            data
        }));
        data[last] = 0x09;
        let want = format!("1 of {} codes stand for no weights", 1536 * (4032 / 3 + 32));
        assert_eq!(finding(&info, layout, &data), Some(want));
    }

    #[test]
    fn whatever_is_no_weight_is_found_in_every_type() {
        for ty in types_of_blocks() {
            let layout = ty.layout().unwrap();
            let n = 3 * layout.block_len;
            let info = row(ty, n);
            let good = vec![0; info.size as usize];
            assert_eq!(finding(&info, layout, &good), None, "{ty}");
            let (floats, things) = match layout.content {
                Content::Float(float) => (vec![(float, 0)], "values"),
                Content::Scaled(scales) => (scales.to_vec(), "scales"),
                _ => (Vec::new(), "codes"),
            };
            let of = 3 * floats.len();
            for (float, first) in floats {
                let (_, infinite) = INFINITE.into_iter().find(|(f, _)| *f == float).unwrap();
                let mut bad = good.clone();
                let at = 2 * layout.block_bytes as usize + first;
                bad[at..at + infinite.len()].copy_from_slice(infinite);
                let want = format!("1 of {of} {things} are not finite");
                assert_eq!(finding(&info, layout, &bad), Some(want), "{ty}");
            }
            if layout.content == Content::Ternary {
                let mut bad = good.clone();
                bad[0] = 3;
                let want = format!("1 of {n} codes are 3, which stands for no weight");
                assert_eq!(finding(&info, layout, &bad), Some(want), "{ty}");
            }
            if layout.trailer_bytes > 0 {
                let mut bad = good.clone();
                let at = 3 * layout.block_bytes as usize;
                bad[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
                let want = "its scale is not finite".to_owned();
                assert_eq!(finding(&info, layout, &bad), Some(want), "{ty}");
            }
        }
    }

    #[test]
    fn codes_of_two_are_counted() {
        let mut types = 0;
        for ty in types_of_blocks() {
            let layout = ty.layout().unwrap();
            let n = 2 * layout.block_len;
            let info = row(ty, n);
            let mut data = vec![0; info.size as usize];
            assert_eq!(twos(&info, layout, &data), None, "{ty}");
            if ty.codes_up_to_two().is_some() {
                data.fill(0b01_01_01_01);
                assert!(is_zero(&info, layout, &data), "{ty}");
                data.fill(0);
            }
            let Some(codes) = ty.codes_up_to_two() else {
                continue;
            };
            data[layout.block_bytes as usize + codes.start] = 0b11_10_11_00;
            let want = format!("2 of {n} codes are 3, which stands for +2");
            assert_eq!(twos(&info, layout, &data), Some(want), "{ty}");
            types += 1;
        }
        assert_eq!(types, 3);
    }

    #[test]
    fn scales_of_zero_are_counted() {
        for ty in types_of_blocks() {
            let layout = ty.layout().unwrap();
            let Content::Scaled(scales) = layout.content else {
                continue;
            };
            let mut data = vec![1; 3 * layout.block_bytes as usize];
            assert_eq!(zero_scales(layout, &data), None, "{ty}");
            let (float, first) = scales[0];
            let at = layout.block_bytes as usize + first;
            data[at..at + float.bytes()].fill(0);
            let of = 3 * scales.len();
            let want = format!("1 of {of} scales are 0");
            assert_eq!(zero_scales(layout, &data), Some(want), "{ty}");
        }
    }

    #[test]
    fn zeros_are_found_in_every_type() {
        for ty in types_of_blocks() {
            let layout = ty.layout().unwrap();
            let n = 3 * layout.block_len;
            let info = row(ty, n);
            let weights = 3 * layout.block_bytes as usize;
            let ones = vec![1; info.size as usize];
            assert!(!is_zero(&info, layout, &ones), "{ty}");
            let mut zero = ones.clone();
            match layout.content {
                Content::Float(_) => zero.fill(0),
                Content::Scaled(scales) => {
                    for block in zero.chunks_mut(layout.block_bytes as usize) {
                        for (float, first) in scales {
                            block[*first..][..float.bytes()].fill(0);
                        }
                    }
                }
                _ => zero[..weights].fill(0b01_01_01_01),
            }
            assert!(is_zero(&info, layout, &zero), "{ty}");
            if layout.trailer_bytes > 0 {
                let mut no_scale = ones.clone();
                no_scale[weights..].fill(0);
                assert!(is_zero(&info, layout, &no_scale), "{ty}");
            }
            // One block by its scale, the others by their codes.
            if zeros::of(ty).is_some() {
                let mut mixed = zero.clone();
                let stride = layout.block_bytes as usize;
                let codes = zeros::tests::block_of_zeros(ty);
                mixed[stride..]
                    .chunks_mut(stride)
                    .for_each(|block| block.copy_from_slice(&codes));
                assert!(is_zero(&info, layout, &mixed), "{ty}");
            }
            let last = match layout.content {
                Content::Scaled(scales) => weights - layout.block_bytes as usize + scales[0].1,
                _ => weights - 1,
            };
            zero[last] = 0x3f;
            assert!(!is_zero(&info, layout, &zero), "{ty}");
        }
    }

    #[test]
    fn codes_that_stand_for_no_weight_are_counted() {
        assert_eq!(undefined_codes(&[0b10_01_00_10; 21]), 0);
        assert_eq!(undefined_codes(&[0b11_01_00_11; 21]), 42);
        // Neighbouring bits of two codes are no code.
        assert_eq!(undefined_codes(&[0b01_10_01_10; 9]), 0);
    }
}
