//! Integers of 7 bits: the compact output head where the kernel prefers it to int8.
//!
//! Of a block of 512, value `64 i + j` plus [`OFFSET`] is the lower seven bits of byte `64 i + j`, for `i < 7`; the
//! highest bits of bytes `j`, `64 + j`, ... are those of value `448 + j`, the lowest first. A row is padded with
//! values of 0.

/// Values per block.
pub const BLOCK: usize = 8 * LINE;
/// Bytes per block.
pub const BLOCK_BYTES: usize = 7 * LINE;
/// Bytes that are unpacked alike.
pub const LINE: usize = 64;
/// What is added to values.
pub const OFFSET: i8 = 64;

/// Bytes of a row.
pub fn row_bytes(columns: usize) -> usize {
    columns.div_ceil(BLOCK) * BLOCK_BYTES
}

/// Packs a row of values in -64..=63.
///
/// # Panics
/// If `packed` is not of the length that [`row_bytes`] tells.
pub fn pack_row(values: &[i8], packed: &mut [u8]) {
    assert_eq!(packed.len(), row_bytes(values.len()));
    let blocks = packed.as_chunks_mut::<BLOCK_BYTES>().0;
    for (values, packed) in values.chunks(BLOCK).zip(blocks) {
        let code = |i: usize| {
            let value = values.get(i).copied().unwrap_or(0);
            debug_assert!((-OFFSET..OFFSET).contains(&value));
            (value + OFFSET) as u8
        };
        for (i, byte) in packed.iter_mut().enumerate() {
            let last = code(BLOCK_BYTES + i % LINE);
            *byte = code(i) | (last >> (i / LINE) & 1) << 7;
        }
    }
}

/// Value `i` of a block.
pub(crate) fn value(block: &[u8; BLOCK_BYTES], i: usize) -> i8 {
    let code = match block.get(i) {
        Some(byte) => byte & 0x7f,
        None => (0..7)
            .map(|bit| block[LINE * bit + i % LINE] >> 7 << bit)
            .sum(),
    };
    code as i8 - OFFSET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_layout() {
        let mut values = [-64; BLOCK];
        for (i, value) in [(0, 63), (447, 1), (448, -63), (449, 63), (511, -62)] {
            values[i] = value;
        }
        let mut packed = [0xff; BLOCK_BYTES];
        pack_row(&values, &mut packed);
        let mut want = [0; BLOCK_BYTES];
        want[0] = 127 | 0x80;
        want[447] = 65;
        for line in 0..7 {
            want[64 * line + 1] |= 0x80;
        }
        want[64 + 63] |= 0x80;
        assert_eq!(packed, want);
        let unpacked: Vec<i8> = (0..BLOCK).map(|i| value(&packed, i)).collect();
        assert_eq!(unpacked, values);
    }

    #[test]
    fn a_row_is_padded_with_zeros() {
        let mut packed = [0; 2 * BLOCK_BYTES];
        pack_row(&[-64; BLOCK + 1], &mut packed);
        let block = packed.last_chunk().unwrap();
        assert_eq!(value(block, 0), -64);
        assert!((1..BLOCK).all(|i| value(block, i) == 0));
    }
}
