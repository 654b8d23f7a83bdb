//! Tensor types: ids, names and block layouts, one line each.

use std::fmt;
use std::ops::Range;

/// How a float is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Float {
    /// Bytes per element.
    pub const fn bytes(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::F16 | Float::Bf16 => 2,
        }
    }
}

/// How the elements of a type lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Elements per block; rows are a multiple of it.
    pub block_len: u64,
    /// Bytes per block; 0 where only a whole tensor has a size.
    pub block_bytes: u64,
    /// Bytes behind the whole tensor; the first four are its F32 scale.
    pub trailer_bytes: u64,
    /// What a block is made of.
    pub content: Content,
}

/// What a block is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A float.
    Float(Float),
    /// Integers and their scales: how each scale is stored, and its first byte.
    Scaled(&'static [(Float, usize)]),
    /// Codes 0, 1, 2 of two bits for -1, 0, +1; 3 stands for no weight.
    Ternary,
    /// Codes of four bits for two or three of -1, 0, +1, in the order in which a kernel reads them: see
    /// [`TensorInfo::tiling`](super::TensorInfo::tiling).
    Tiled,
}

impl Layout {
    const fn float(float: Float) -> Layout {
        Layout {
            block_len: 1,
            block_bytes: float.bytes() as u64,
            trailer_bytes: 0,
            content: Content::Float(float),
        }
    }

    const fn scaled(len: u64, bytes: u64, scales: &'static [(Float, usize)]) -> Layout {
        Layout {
            block_len: len,
            block_bytes: bytes,
            trailer_bytes: 0,
            content: Content::Scaled(scales),
        }
    }

    const fn ternary(len: u64, bytes: u64, trailer_bytes: u64) -> Layout {
        Layout {
            block_len: len,
            block_bytes: bytes,
            trailer_bytes,
            content: Content::Ternary,
        }
    }

    const fn tiled(len: u64, bytes: u64) -> Layout {
        Layout {
            block_len: len,
            block_bytes: bytes,
            trailer_bytes: TRAILER,
            content: Content::Tiled,
        }
    }
}

/// Bytes behind the packed weights of BitNet.cpp's types; the first four are the F32 scale.
pub const TRAILER: u64 = 32;

/// One line for each type: name, id, layout.
macro_rules! tensor_types {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $layout:expr;)*) => {
        /// How a tensor's elements are stored. The ids are ggml's (`enum ggml_type`), with those of BitNet.cpp's fork.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, reason = "the names of the format")]
        pub enum TensorType {
            $($(#[$doc])* $name,)*
            /// Any other id. Such a tensor can be listed but not read.
            Unknown(u32),
        }

        impl TensorType {
            /// Every type that can be read.
            pub const KNOWN: &[TensorType] = &[$(TensorType::$name),*];

            /// The type's id in the file.
            pub fn id(self) -> u32 {
                match self {
                    $(TensorType::$name => $id,)*
                    TensorType::Unknown(id) => id,
                }
            }

            /// llama.cpp's name for the type, in capitals; `?` for an id that it does not know either.
            pub fn name(self) -> &'static str {
                match self {
                    $(TensorType::$name => stringify!($name),)*
                    TensorType::Unknown(id) => {
                        let named = ONLY_NAMED.iter().find(|(of, _)| *of == id);
                        named.map_or("?", |(_, name)| name)
                    }
                }
            }

            /// How its elements lie; `None` if the type is unknown.
            pub const fn layout(self) -> Option<Layout> {
                match self {
                    $(TensorType::$name => Some($layout),)*
                    TensorType::Unknown(_) => None,
                }
            }
        }
    };
}

tensor_types! {
    /// IEEE 754 single precision.
    F32 = 0, Layout::float(Float::F32);
    /// IEEE 754 half precision.
    F16 = 1, Layout::float(Float::F16);
    /// The upper half of a single.
    BF16 = 30, Layout::float(Float::Bf16);
    /// Blocks of 32: an F16 scale, then 32 int8.
    Q8_0 = 8, Layout::scaled(32, 34, &[(Float::F16, 0)]);
    /// Blocks of 256: 6-bit values with 16 int8 scales and an F16 scale of those.
    Q6_K = 14, Layout::scaled(256, 210, &[(Float::F16, 208)]);
    /// Blocks of 256: ternary weights, five to a byte, and an F16 scale.
    TQ1_0 = 34, Layout::scaled(256, 54, &[(Float::F16, 52)]);
    /// Blocks of 256: ternary weights of 2 bits, and an F16 scale.
    TQ2_0 = 35, Layout::scaled(256, 66, &[(Float::F16, 64)]);
    /// BitNet.cpp's ternary format: 2 bits per weight, one F32 scale behind the whole tensor.
    I2_S = 36, Layout::ternary(128, 32, TRAILER);
    /// BitNet.cpp's ternary format for lookup tables on ARM: two weights in 4 bits, in tiles of its kernels; a scale as I2_S.
    TL1 = 38, Layout::tiled(4, 1);
    /// The same on x86: three weights in 5 bits, and two in 4 bits at the end of a row.
    TL2 = 39, Layout::tiled(1, 0);
    /// Blocks of 128: an F16 scale, then a sign bit per weight.
    Q1_0 = 41, Layout::scaled(128, 18, &[(Float::F16, 0)]);
    /// Blocks of 64: an F16 scale, then 2 bits per weight, for -1, 0, 1 and 2.
    Q2_0 = 42, Layout::scaled(64, 18, &[(Float::F16, 0)]);
    /// The same in blocks of 128, as the first files of that name have it, under the same id.
    Q2_0_128 = 42, Layout::scaled(128, 34, &[(Float::F16, 0)]);
    /// TL2 under the id that BitNet.cpp gives it since 2026-07.
    TL2_42 = 42, Layout::tiled(1, 0);
}

/// The names of types that can be listed but not read.
const ONLY_NAMED: [(u32, &str); 30] = [
    (2, "Q4_0"),
    (3, "Q4_1"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (37, "I8_S"),
    (PQ2_0, "PQ2_0"),
    (PTQ1_0, "PTQ1_0"),
];

const PQ2_0: u32 = 142;
const PTQ1_0: u32 = 143;

impl TensorType {
    /// The type with this id; of several, the one that is written today.
    pub fn from_id(id: u32) -> TensorType {
        let first = TensorType::of_id(id).next();
        first.unwrap_or(TensorType::Unknown(id))
    }

    /// The types with this id. Which of several a tensor has, only the room that it takes in the file tells.
    pub fn of_id(id: u32) -> impl Iterator<Item = TensorType> {
        let known = TensorType::KNOWN.iter().copied();
        known.filter(move |ty| ty.id() == id)
    }

    /// Whether its id stands for other types too, here or in engines that have MXFP4 for TL2.
    pub(super) fn shares_id(self) -> bool {
        self == TensorType::TL2 || TensorType::of_id(self.id()).count() > 1
    }

    /// Why a type that cannot be read is refused, where there is more to say than that.
    pub(super) fn refusal(self) -> Option<String> {
        match self {
            TensorType::Unknown(PQ2_0 | PTQ1_0) => {
                let what = "its products need a Hadamard transform of the activations, without which they are garbage";
                Some(what.to_owned())
            }
            TensorType::Unknown(id) => {
                let names: Vec<&str> = TensorType::of_id(id).map(TensorType::name).collect();
                let what = || format!("its size is not that of {}", names.join(" or "));
                (!names.is_empty()).then(what)
            }
            _ => None,
        }
    }

    /// The type of this [`name`](Self::name), if it can be read.
    pub fn from_name(name: &str) -> Option<TensorType> {
        let mut known = TensorType::KNOWN.iter().copied();
        known.find(|ty| ty.name() == name)
    }

    /// The name of every type, also of those that cannot be read.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let known = TensorType::KNOWN.iter().map(|ty| ty.name());
        known.chain(ONLY_NAMED.iter().map(|(_, name)| *name))
    }

    /// Whether the elements are floats.
    pub fn is_float(self) -> bool {
        let content = self.layout().map(|layout| layout.content);
        matches!(content, Some(Content::Float(_)))
    }

    /// Whether the weights are ternary, with one scale for the tensor: they are multiplied with activations in int8.
    pub fn is_ternary(self) -> bool {
        let content = self.layout().map(|layout| layout.content);
        matches!(content, Some(Content::Ternary | Content::Tiled))
    }

    /// Whether each block of a tensor has scales of its own.
    pub fn has_scales_of_blocks(self) -> bool {
        let content = self.layout().map(|layout| layout.content);
        matches!(content, Some(Content::Scaled(_)))
    }

    /// Where in a block codes of 2 bits are, of which 3 stands for +2: a type that can be ternary, and need not be.
    pub fn codes_up_to_two(self) -> Option<Range<usize>> {
        match self {
            TensorType::TQ2_0 => Some(0..64),
            TensorType::Q2_0 => Some(2..18),
            TensorType::Q2_0_128 => Some(2..34),
            _ => None,
        }
    }

    /// Elements per block; rows are a multiple of it. 0 if the type is unknown.
    pub const fn block_len(self) -> u64 {
        match self.layout() {
            Some(layout) => layout.block_len,
            None => 0,
        }
    }

    /// Bytes per block. 0 if the type is unknown.
    pub const fn block_bytes(self) -> u64 {
        match self.layout() {
            Some(layout) => layout.block_bytes,
            None => 0,
        }
    }

    /// Bytes of a tensor of this type and shape (`shape[0]` is the row length).
    ///
    /// # Errors
    /// Says what is wrong with the shape: rows that do not divide into blocks, a size beyond 64 bits, a zero;
    /// or that the type is unknown.
    pub fn data_size(self, shape: &[u64]) -> Result<u64, String> {
        let n = element_count(shape)?;
        let Some(layout) = self.layout() else {
            return Err(format!("tensor type {self} has no known size"));
        };
        let row = shape.first().copied().unwrap_or(1);
        let block = layout.block_len;
        if !row.is_multiple_of(block) {
            return Err(format!(
                "rows of {row} elements, but {self} needs a multiple of {block}"
            ));
        }
        let size = match self {
            TensorType::TL2 | TensorType::TL2_42 if row < TL2_TAIL => {
                return Err(format!(
                    "rows of {row} elements, but {self} needs {TL2_TAIL} or more"
                ));
            }
            TensorType::TL2 | TensorType::TL2_42 => tl2_size(row, n / row),
            _ => (n / block).checked_mul(layout.block_bytes),
        };
        size.and_then(|bytes| bytes.checked_add(layout.trailer_bytes))
            .ok_or_else(|| format!("shape {shape:?} is too large"))
    }
}

/// Weights at the end of a row for which TL2 leaves the room of two in 4 bits, however many they are.
const TL2_TAIL: u64 = 256;

/// Bytes of TL2's weights and their padding to 32 bytes (`ggml_nbytes`).
fn tl2_size(columns: u64, rows: u64) -> Option<u64> {
    let threes = (columns - TL2_TAIL).checked_mul(rows)? / 3;
    let twos = TL2_TAIL.checked_mul(rows)? / 2;
    let bytes = threes.checked_mul(5)? / 8 + twos.checked_mul(4)? / 8;
    bytes.checked_next_multiple_of(TRAILER)
}

/// Elements of a tensor of this shape; an empty shape is a scalar.
pub(super) fn element_count(shape: &[u64]) -> Result<u64, String> {
    if shape.contains(&0) {
        return Err(format!("shape {shape:?} has a dimension of 0"));
    }
    shape
        .iter()
        .try_fold(1u64, |n, &d| n.checked_mul(d))
        .ok_or_else(|| format!("shape {shape:?} is too large"))
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.name()) {
            (TensorType::Unknown(id), "?") => f.pad(&format!("id {id}")),
            (_, name) => f.pad(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_and_names_are_distinct_and_lead_back() {
        let only_named = ONLY_NAMED.map(|(id, _)| TensorType::Unknown(id));
        let all = || TensorType::KNOWN.iter().chain(&only_named);
        assert_eq!(
            all().map(|ty| ty.name()).collect::<HashSet<_>>().len(),
            all().count()
        );
        for &ty in all() {
            match TensorType::of_id(ty.id()).collect::<Vec<_>>()[..] {
                [] => assert_eq!(TensorType::from_id(ty.id()), ty),
                ref types => {
                    assert!(types.contains(&ty));
                    // Types that share an id differ in their size.
                    let n = types.iter().map(|ty| ty.block_len()).max();
                    let sizes = types.iter().map(|ty| ty.data_size(&[n.unwrap_or(0)]));
                    assert_eq!(sizes.collect::<HashSet<_>>().len(), types.len());
                    assert_eq!(TensorType::from_id(ty.id()), types[0]);
                }
            }
            let known = ty.layout().is_some();
            assert_eq!(TensorType::from_name(ty.name()), known.then_some(ty));
        }
    }

    #[test]
    fn codes_of_two_bits_lie_beside_the_scales() {
        for ty in TensorType::KNOWN {
            let layout = ty.layout().unwrap();
            let (Some(codes), Content::Scaled(scales)) = (ty.codes_up_to_two(), layout.content)
            else {
                assert_eq!(ty.codes_up_to_two(), None, "{ty}");
                continue;
            };
            assert_eq!(4 * codes.len() as u64, layout.block_len, "{ty}");
            let bytes: usize = scales.iter().map(|(float, _)| float.bytes()).sum();
            assert_eq!((codes.len() + bytes) as u64, layout.block_bytes, "{ty}");
            assert!(
                scales.iter().all(|(_, first)| !codes.contains(first)),
                "{ty}"
            );
        }
    }

    #[test]
    fn scales_lie_within_their_block() {
        for ty in TensorType::KNOWN {
            let layout = ty.layout().unwrap();
            if let Content::Scaled(scales) = layout.content {
                let end = |&(float, first): &(Float, usize)| (first + float.bytes()) as u64;
                assert!(!scales.is_empty(), "{ty}");
                assert!(scales.iter().all(|s| end(s) <= layout.block_bytes), "{ty}");
            }
        }
    }
}
