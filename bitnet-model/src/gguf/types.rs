//! Tensor types: ids, names and block layouts.

use std::fmt;

/// How a tensor's elements are stored. The ids are ggml's (`enum ggml_type`), with those of BitNet.cpp's fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names of the format")]
pub enum TensorType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// Blocks of 32: an F16 scale, then 32 int8.
    Q8_0,
    /// Blocks of 256: 6-bit values with 16 int8 scales and an F16 scale of those.
    Q6_K,
    /// BitNet.cpp's ternary format: 2 bits per weight, one F32 scale behind the whole tensor.
    I2_S,
    /// Any other id. Such a tensor can be listed but not read.
    Unknown(u32),
}

/// Bytes behind the packed weights of an I2_S tensor; the first four are the F32 scale.
pub const I2_S_TRAILER: u64 = 32;

impl TensorType {
    /// The type with this id.
    pub fn from_id(id: u32) -> TensorType {
        match id {
            0 => TensorType::F32,
            1 => TensorType::F16,
            8 => TensorType::Q8_0,
            14 => TensorType::Q6_K,
            30 => TensorType::BF16,
            36 => TensorType::I2_S,
            other => TensorType::Unknown(other),
        }
    }

    /// The type's id in the file.
    pub fn id(self) -> u32 {
        match self {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q8_0 => 8,
            TensorType::Q6_K => 14,
            TensorType::BF16 => 30,
            TensorType::I2_S => 36,
            TensorType::Unknown(id) => id,
        }
    }

    /// llama.cpp's name for the type, in capitals; `?` for an id that it does not know either.
    pub fn name(self) -> &'static str {
        match self.id() {
            0 => "F32",
            1 => "F16",
            2 => "Q4_0",
            3 => "Q4_1",
            6 => "Q5_0",
            7 => "Q5_1",
            8 => "Q8_0",
            9 => "Q8_1",
            10 => "Q2_K",
            11 => "Q3_K",
            12 => "Q4_K",
            13 => "Q5_K",
            14 => "Q6_K",
            15 => "Q8_K",
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            20 => "IQ4_NL",
            21 => "IQ3_S",
            22 => "IQ2_S",
            23 => "IQ4_XS",
            24 => "I8",
            25 => "I16",
            26 => "I32",
            27 => "I64",
            28 => "F64",
            29 => "IQ1_M",
            30 => "BF16",
            31 => "Q4_0_4_4",
            32 => "Q4_0_4_8",
            33 => "Q4_0_8_8",
            34 => "TQ1_0",
            35 => "TQ2_0",
            36 => "I2_S",
            37 => "I8_S",
            38 => "TL1",
            39 => "TL2",
            _ => "?",
        }
    }

    /// Elements per block; rows are a multiple of it. 0 if the type is unknown.
    pub fn block_len(self) -> u64 {
        match self {
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => 1,
            TensorType::Q8_0 => 32,
            TensorType::Q6_K => 256,
            TensorType::I2_S => 128,
            TensorType::Unknown(_) => 0,
        }
    }

    /// Bytes per block. 0 if the type is unknown.
    pub fn block_bytes(self) -> u64 {
        match self {
            TensorType::F32 => 4,
            TensorType::F16 | TensorType::BF16 => 2,
            TensorType::Q8_0 => 34,
            TensorType::Q6_K => 210,
            TensorType::I2_S => 32,
            TensorType::Unknown(_) => 0,
        }
    }

    /// Bytes of a tensor of this type and shape (`shape[0]` is the row length).
    ///
    /// # Errors
    /// Says what is wrong with the shape: rows that do not divide into blocks, a size beyond 64 bits, a zero;
    /// or that the type is unknown.
    pub fn data_size(self, shape: &[u64]) -> Result<u64, String> {
        let n = element_count(shape)?;
        if let TensorType::Unknown(_) = self {
            return Err(format!("tensor type {self} has no known size"));
        }
        let row = shape.first().copied().unwrap_or(1);
        let block = self.block_len();
        if !row.is_multiple_of(block) {
            return Err(format!(
                "rows of {row} elements, but {self} needs a multiple of {block}"
            ));
        }
        let trailer = match self {
            TensorType::I2_S => I2_S_TRAILER,
            _ => 0,
        };
        (n / block)
            .checked_mul(self.block_bytes())
            .and_then(|bytes| bytes.checked_add(trailer))
            .ok_or_else(|| format!("shape {shape:?} is too large"))
    }
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
