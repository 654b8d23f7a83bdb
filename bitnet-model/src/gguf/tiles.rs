//! TL1 and TL2: where weights lie follows from the tile sizes of the kernels that a file was converted for, and no file
//! holds them. `setup_env.py` of BitNet.cpp has them for the shapes of three models; those are taken for a file's own.
//!
//! Layout (`utils/convert-hf-to-gguf-bitnet.py`, with rows `M` and columns `K`; all that is nested is in that order):
//! - tiles of `bm` rows and `bk` columns, one after the other along the rows, then the next `bm` rows;
//! - within a tile, strips of `bmm` rows; within a strip, groups of 256 / `bmm` columns in TL1, 192 / `bmm` in TL2.
//! - TL1: in a group, 16 rows and 4 columns after 4, then the next 16 rows. Four weights `a`, `b`, `c`, `d` side by side
//!   are a byte: `3a + b + 4` in the upper four bits, `3c + d + 4` in the lower.
//! - TL2: as many columns as make whole tiles are in threes, the others, in tiles of 32 columns, in twos, whose group is 4
//!   columns. A byte has two threes or two twos, those of 32 rows in the order 0 to 7, 16 to 23, 8 to 15, 24 to 31. A three
//!   `a`, `b`, `c` is the absolute value of `9a + 3b + c`; their signs follow, behind all threes, tile by tile: for 24
//!   columns, 32 bytes of 16 little-endian words, of which word `w` has the sign of three `u` of row `w` in bit `15 - 2u`,
//!   of row `w + 16` in bit `14 - 2u`, set where it is negative. The twos follow, as in TL1.
//! - Padding, and 32 bytes that begin with the F32 scale of the whole tensor.

use super::{TensorInfo, TensorType};

/// Tile sizes, under their names in BitNet.cpp's `kernel_config.ini`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Rows of a tile.
    pub bm: usize,
    /// Columns of a tile.
    pub bk: usize,
    /// Rows that are multiplied at once.
    pub bmm: usize,
}

/// What matrices of a shape are tiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Rows and columns.
    shape: [u64; 2],
    /// As `setup_env.py` has it.
    pub tiles: Tiles,
    /// As `preset_kernels` has it, where that is something else.
    pub preset: Option<Tiles>,
}

impl Tiling {
    const fn of(shape: [u64; 2], tiles: [usize; 3]) -> Tiling {
        Tiling {
            shape,
            tiles: Tiles::of(tiles),
            preset: None,
        }
    }

    const fn or(self, preset: [usize; 3]) -> Tiling {
        Tiling {
            preset: Some(Tiles::of(preset)),
            ..self
        }
    }
}

impl Tiles {
    const fn of([bm, bk, bmm]: [usize; 3]) -> Tiles {
        Tiles { bm, bk, bmm }
    }

    /// Columns of TL2 that are in threes; the others are in twos.
    pub fn columns_in_threes(self, columns: usize) -> usize {
        columns / self.bk * self.bk
    }
}

/// bitnet_b1_58-large, bitnet_b1_58-3B and Llama3-8B.
const TL1: [Tiling; 10] = [
    Tiling::of([1536, 4096], [256, 128, 32]),
    Tiling::of([1536, 1536], [128, 64, 64]),
    Tiling::of([4096, 1536], [256, 128, 32]),
    Tiling::of([3200, 8640], [160, 64, 32]),
    Tiling::of([3200, 3200], [320, 128, 64]),
    Tiling::of([8640, 3200], [320, 64, 32]),
    Tiling::of([14336, 4096], [256, 128, 32]).or([256, 128, 64]),
    Tiling::of([4096, 14336], [128, 64, 64]).or([256, 128, 32]),
    Tiling::of([1024, 4096], [256, 128, 32]).or([128, 64, 64]),
    Tiling::of([4096, 4096], [128, 64, 64]).or([128, 64, 32]),
];

/// The same. `preset_kernels` has another `bmm` for 4096 by 1536, 64, for which its converter has no layout.
const TL2: [Tiling; 10] = [
    Tiling::of([1536, 4096], [256, 96, 32]),
    Tiling::of([1536, 1536], [128, 192, 32]),
    Tiling::of([4096, 1536], [256, 96, 32]),
    Tiling::of([3200, 8640], [160, 96, 32]),
    Tiling::of([3200, 3200], [320, 96, 32]),
    Tiling::of([8640, 3200], [320, 96, 32]),
    Tiling::of([14336, 4096], [256, 96, 32]),
    Tiling::of([4096, 14336], [128, 96, 32]),
    Tiling::of([1024, 4096], [256, 96, 32]),
    Tiling::of([4096, 4096], [128, 96, 32]),
];

fn tilings(ty: TensorType) -> &'static [Tiling] {
    match ty {
        TensorType::TL1 => &TL1,
        TensorType::TL2 | TensorType::TL2_42 => &TL2,
        _ => &[],
    }
}

impl TensorType {
    /// What matrices of this type and of `rows` by `columns` are tiled in, if the type has tiles.
    ///
    /// # Errors
    /// That no configuration is for that shape, and which ones are.
    pub fn tiling(self, rows: u64, columns: u64) -> Option<Result<&'static Tiling, String>> {
        let tilings = tilings(self);
        let found = tilings.iter().find(|t| t.shape == [rows, columns]);
        let missing = || {
            let shapes = tilings
                .iter()
                .map(|t| format!("{}x{}", t.shape[0], t.shape[1]));
            format!(
                "where the weights of {self} lie follows from tile sizes that no file holds, and BitNet.cpp has none for {rows} \
                 rows of {columns}: it has them for {}",
                shapes.collect::<Vec<_>>().join(", ")
            )
        };
        (!tilings.is_empty()).then(|| found.ok_or_else(missing))
    }
}

/// Codes of four bits for some weights each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nibbles<'a> {
    /// Two codes in a byte.
    pub bytes: &'a [u8],
    /// The largest code that stands for weights.
    pub largest: u8,
    /// The code for zeros.
    pub zero: u8,
}

impl Nibbles<'_> {
    /// How many of the codes stand for no weights.
    pub fn undefined(&self) -> usize {
        let bad = |code: u8| usize::from(code > self.largest);
        let codes = self.bytes.iter();
        codes.map(|byte| bad(byte >> 4) + bad(byte & 15)).sum()
    }
}

impl TensorInfo {
    /// As [`TensorType::tiling`], of a tensor of this shape.
    ///
    /// # Errors
    /// As there.
    pub fn tiling(&self) -> Option<Result<&'static Tiling, String>> {
        let columns = self.shape.first().copied().unwrap_or(1);
        let rows = self.n_elements().checked_div(columns).unwrap_or(0);
        self.ty.tiling(rows, columns)
    }

    /// The codes in `data` of a type that has tiles, signs aside. `None` for other types, and where they lie follows from
    /// tile sizes that are not known.
    pub fn nibbles<'a>(&self, data: &'a [u8]) -> Option<Vec<Nibbles<'a>>> {
        let twos = |bytes| Nibbles {
            bytes,
            largest: 8,
            zero: 4,
        };
        let n = usize::try_from(self.n_elements()).ok()?;
        if self.ty == TensorType::TL1 {
            return Some(vec![twos(data.get(..n / 4)?)]);
        }
        let Tiling { tiles, shape, .. } = self.tiling()?.ok()?;
        let [rows, columns] = shape.map(|n| n as usize);
        let in_threes = rows * tiles.columns_in_threes(columns);
        let (threes, rest) = data.split_at_checked(in_threes / 6)?;
        let twos_at = in_threes / 24;
        let threes = Nibbles {
            bytes: threes,
            largest: 13,
            zero: 0,
        };
        Some(vec![
            threes,
            twos(rest.get(twos_at..twos_at + (n - in_threes) / 4)?),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_divide_their_shapes() {
        for (ty, per_group) in [(TensorType::TL1, 256), (TensorType::TL2, 192)] {
            for Tiling {
                shape,
                tiles,
                preset,
            } in tilings(ty)
            {
                let [rows, columns] = shape.map(|n| n as usize);
                for Tiles { bm, bk, bmm } in [Some(*tiles), *preset].into_iter().flatten() {
                    assert!(
                        rows.is_multiple_of(bm) && bm.is_multiple_of(bmm),
                        "{shape:?}"
                    );
                    assert!(
                        per_group % bmm == 0 && bk.is_multiple_of(per_group / bmm),
                        "{shape:?}"
                    );
                    let rest = match ty {
                        TensorType::TL1 => bk,
                        _ => 32,
                    };
                    assert!((columns % bk).is_multiple_of(rest), "{shape:?}");
                }
                assert_ne!(*preset, Some(*tiles));
                let same = ty.tiling(shape[0], shape[1]).unwrap().unwrap();
                assert_eq!(same.shape, *shape);
                let bytes = ty.data_size(&[shape[1], shape[0]]).unwrap() as usize;
                let info = TensorInfo {
                    name: "w".to_owned(),
                    shape: vec![shape[1], shape[0]],
                    ty,
                    part: 0,
                    offset: 0,
                    size: bytes as u64,
                };
                let data = vec![0; bytes];
                let codes = info.nibbles(&data).unwrap();
                let weights = |n: &Nibbles| n.bytes.len() * if n.zero == 0 { 6 } else { 4 };
                assert_eq!(codes.iter().map(weights).sum::<usize>(), rows * columns);
            }
        }
    }

    #[test]
    fn a_shape_of_no_configuration_is_named() {
        let why = TensorType::TL2.tiling(512, 128).unwrap().unwrap_err();
        assert!(
            why.contains("BitNet.cpp has none for 512 rows of 128"),
            "{why}"
        );
        assert!(why.ends_with("1024x4096, 4096x4096"), "{why}");
        assert_eq!(TensorType::I2_S.tiling(1536, 1536), None);
    }
}
