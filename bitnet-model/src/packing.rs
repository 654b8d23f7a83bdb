//! In which bits of a block of bytes I2_S has which code: BitNet.cpp packs for the machine that converts, in other groups
//! on ARM than on x86, and the file does not say in which.

/// Two-bit codes in a block of bytes, each group in the same bits of all of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Bytes of a block, which hold four times as many codes.
    bytes: usize,
    /// Whether the first group is in the lowest bits.
    low_first: bool,
    name: &'static str,
}

/// As other writers have it.
pub const OTHERS: [Packing; 5] = [
    Packing {
        bytes: 16,
        low_first: false,
        name: "64 codes in 16 bytes, as BitNet.cpp packs on ARM",
    },
    Packing {
        bytes: 32,
        low_first: true,
        name: "128 codes in 32 bytes, lowest bits first",
    },
    Packing {
        bytes: 16,
        low_first: true,
        name: "64 codes in 16 bytes, lowest bits first",
    },
    Packing {
        bytes: 1,
        low_first: false,
        name: "4 codes in each byte",
    },
    Packing {
        bytes: 1,
        low_first: true,
        name: "4 codes in each byte, lowest bits first",
    },
];

impl Packing {
    /// As every engine here reads it: `quantize_i2_s` of BitNet.cpp on x86 (`ggml-bitnet-mad.cpp`).
    pub const OURS: Packing = Packing {
        bytes: 32,
        low_first: false,
        name: "128 codes in 32 bytes",
    };

    /// How many codes are in how many bytes.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Codes in a block.
    pub fn block_len(self) -> usize {
        4 * self.bytes
    }

    /// Where code `i` is: its byte, and the shift of its bits.
    fn place(self, i: usize) -> (usize, u32) {
        let (block, within) = (i / (4 * self.bytes), i % (4 * self.bytes));
        let group = (within / self.bytes) as u32;
        let shift = match self.low_first {
            true => 2 * group,
            false => 6 - 2 * group,
        };
        (block * self.bytes + within % self.bytes, shift)
    }

    /// The code at a [`place`](Self::place).
    fn code_at(self, byte: usize, shift: u32) -> usize {
        let group = match self.low_first {
            true => shift / 2,
            false => 3 - shift / 2,
        };
        byte / self.bytes * 4 * self.bytes + group as usize * self.bytes + byte % self.bytes
    }

    /// Which code of a row that is packed in this way stands where every engine here reads code `i`.
    pub fn taken_for(self, i: usize) -> usize {
        let (byte, shift) = Packing::OURS.place(i);
        self.code_at(byte, shift)
    }

    /// The same codes as every engine here reads them.
    pub fn to_ours(self, data: &[u8]) -> Vec<u8> {
        let mut out = vec![0; data.len()];
        for i in 0..4 * data.len() {
            let ((from, down), (to, up)) = (self.place(i), Packing::OURS.place(i));
            out[to] |= (data[from] >> down & 3) << up;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes() -> Vec<u8> {
        (0..256).map(|i| (i * 7 / 5 % 3) as u8).collect()
    }

    fn pack(packing: Packing, codes: &[u8]) -> Vec<u8> {
        let mut data = vec![0; codes.len() / 4];
        for (i, code) in codes.iter().enumerate() {
            let (byte, shift) = packing.place(i);
            data[byte] |= code << shift;
        }
        data
    }

    #[test]
    fn other_packings_are_read_as_ours() {
        let ours = pack(Packing::OURS, &codes());
        assert_eq!(Packing::OURS.to_ours(&ours), ours);
        for packing in OTHERS {
            let data = pack(packing, &codes());
            assert_ne!(data, ours, "{}", packing.name);
            assert_eq!(packing.to_ours(&data), ours, "{}", packing.name);
        }
    }

    #[test]
    fn a_code_is_taken_for_the_one_in_the_same_bits() {
        for packing in OTHERS {
            let read: Vec<u8> = (0..256).map(|i| codes()[packing.taken_for(i)]).collect();
            assert_eq!(
                pack(Packing::OURS, &read),
                pack(packing, &codes()),
                "{}",
                packing.name
            );
        }
    }
}
