//! Files that are no GGUF, or contradict themselves.

use super::Case;
use super::file::{Tensor, array, counted, f32, string, typed, u32};

const EMBD: &str = "token_embd.weight";
const NORM: &str = "output_norm.weight";
const GATE: &str = "blk.0.ffn_gate.weight";
const KEY: &[u8] = b"x";

/// Arrays in arrays, `depth` of them, the innermost empty.
fn nested(depth: u32) -> Vec<u8> {
    let mut value = counted(0, &[]);
    for _ in 1..depth {
        value = counted(1, &typed(9, &value));
    }
    typed(9, &typed(9, &value))
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("nothing", &["not a GGUF file: it is empty"], |f| {
            f.cut = Some(0)
        }),
        Case::new(
            "other magic",
            &["not a GGUF file: it starts with \"GGML\""],
            |f| {
                f.magic = b"GGML";
            },
        ),
        Case::new("magic alone", &["truncated: version at byte 4"], |f| {
            f.cut = Some(4)
        }),
        Case::new(
            "counts cut",
            &["truncated: metadata count at byte 16"],
            |f| f.cut = Some(20),
        ),
        Case::new("version 0", &["GGUF version 0"], |f| f.version = 0),
        Case::new("version 1", &["GGUF version 1"], |f| f.version = 1),
        Case::new("version 4", &["GGUF version 4"], |f| f.version = 4),
        Case::new("other byte order", &["big-endian GGUF"], |f| {
            f.version = 3 << 24
        }),
    ];
    cases.extend(counts());
    cases.extend(keys());
    cases.extend(arrays());
    cases.extend(shapes());
    cases.extend(places());
    cases
}

fn counts() -> Vec<Case> {
    vec![
        Case::new(
            "2^32 keys",
            &["metadata at byte 24 has 4294967296 elements"],
            |f| {
                f.n_kv = Some(1 << 32);
            },
        ),
        Case::new(
            "2^63 keys",
            &["metadata at byte 24 has 9223372036854775808"],
            |f| {
                f.n_kv = Some(1 << 63);
            },
        ),
        Case::new(
            "2^64-1 keys",
            &["metadata at byte 24 has 18446744073709551615"],
            |f| {
                f.n_kv = Some(u64::MAX);
            },
        ),
        // The first tensor is then read as a key.
        Case::new("a key too many", &["truncated: tensor name"], |f| {
            f.n_kv = Some(f.entries.len() as u64 + 1);
        }),
        Case::new(
            "2^32 tensors",
            &["the list of tensors at byte 24 has 4294967296"],
            |f| {
                f.n_tensors = Some(1 << 32);
            },
        ),
        Case::new(
            "2^64-1 tensors",
            &["the list of tensors at byte 24 has 18446744073709551615"],
            |f| {
                f.n_tensors = Some(u64::MAX);
            },
        ),
        Case::new("a tensor too many", &["tensor name"], |f| {
            f.n_tensors = Some(f.tensors.len() as u64 + 1);
        }),
    ]
}

fn keys() -> Vec<Case> {
    vec![
        Case::new("key without a name", &["a metadata key is empty"], |f| {
            f.push(b"", u32(1))
        }),
        Case::new(
            "key of 2^32 bytes",
            &["truncated: metadata key", "takes 4294967296 bytes"],
            |f| {
                // The value's bytes are in the length's place.
                f.push(KEY, [typed(0, &[0]), counted(1 << 32, b"y")].concat());
                f.n_kv = Some(f.entries.len() as u64 + 1);
            },
        ),
        Case::new(
            "key of 2^64-1 bytes",
            &["takes 18446744073709551615 bytes"],
            |f| {
                f.push(KEY, [typed(0, &[0]), counted(u64::MAX, b"y")].concat());
                f.n_kv = Some(f.entries.len() as u64 + 1);
            },
        ),
        Case::new(
            "key that is not UTF-8",
            &["metadata key is not UTF-8"],
            |f| {
                f.push(b"\xFF\xFE", u32(1));
            },
        ),
        Case::new(
            "key twice",
            &["metadata key \"general.name\" occurs twice"],
            |f| {
                f.push(b"general.name", string(b"other"));
            },
        ),
        Case::new(
            "key of 1 MiB, twice",
            &["metadata key \"kkk", "occurs twice"],
            |f| {
                f.push(&[b'k'; 1 << 20], u32(1));
                f.push(&[b'k'; 1 << 20], u32(2));
            },
        ),
        Case::new(
            "value of type 13",
            &["value of \"x\" has unknown type 13"],
            |f| {
                f.push(KEY, typed(13, &[0; 8]));
            },
        ),
        Case::new("value of type 2^32-1", &["unknown type 4294967295"], |f| {
            f.push(KEY, typed(u32::MAX, &[0; 8]));
        }),
        Case::new("bool of 2", &["value of \"x\" is a bool of 2"], |f| {
            f.push(KEY, typed(7, &[2]))
        }),
        Case::new(
            "string of 2^32 bytes",
            &["value of \"x\"", "takes 4294967296 bytes"],
            |f| {
                f.push(KEY, typed(8, &counted(1 << 32, b"y")));
            },
        ),
        Case::new(
            "string of 2^63 bytes",
            &["takes 9223372036854775808 bytes"],
            |f| {
                f.push(KEY, typed(8, &counted(1 << 63, b"y")));
            },
        ),
        Case::new(
            "string that is not UTF-8",
            &["value of \"x\" is not UTF-8"],
            |f| {
                f.push(KEY, string(b"ab\xC0\x80"));
            },
        ),
    ]
}

fn arrays() -> Vec<Case> {
    vec![
        Case::new(
            "array of type 99",
            &["value of \"x\" is an array of unknown type 99"],
            |f| {
                f.push(KEY, array(99, 1, &[0; 8]));
            },
        ),
        Case::new(
            "2^32 numbers",
            &["value of \"x\"", "takes 17179869184 bytes"],
            |f| {
                f.push(KEY, array(4, 1 << 32, &[0; 8]));
            },
        ),
        Case::new(
            "2^62 numbers, whose bytes wrap",
            &["an array of 4611686018427387904 elements"],
            |f| {
                f.push(KEY, array(10, 1 << 62, &[0; 8]));
            },
        ),
        Case::new("2^63 bytes", &["takes 9223372036854775808 bytes"], |f| {
            f.push(KEY, array(0, 1 << 63, &[0; 8]));
        }),
        Case::new(
            "2^40 bools",
            &["value of \"x\"", "has 1099511627776 elements"],
            |f| {
                f.push(KEY, array(7, 1 << 40, &[0; 8]));
            },
        ),
        Case::new(
            "2^64-1 strings",
            &["has 18446744073709551615 elements"],
            |f| {
                f.push(KEY, array(8, u64::MAX, &[0; 8]));
            },
        ),
        Case::new(
            "2^61 strings, whose lengths wrap",
            &["has 2305843009213693952 elements"],
            |f| {
                f.push(KEY, array(8, 1 << 61, &[0; 8]));
            },
        ),
        Case::new(
            "string of an array of 2^64-1 bytes",
            &["takes 18446744073709551615 bytes"],
            |f| {
                f.push(KEY, array(8, 1, &counted(u64::MAX, b"y")));
            },
        ),
        Case::new("2^60 arrays", &["has 1152921504606846976 elements"], |f| {
            f.push(KEY, array(9, 1 << 60, &[0; 12]));
        }),
        Case::new("arrays 9 deep", &["nests arrays deeper than 8"], |f| {
            f.push(KEY, nested(9))
        }),
        Case::new(
            "arrays 100,000 deep",
            &["nests arrays deeper than 8"],
            |f| {
                f.push(KEY, nested(100_000));
            },
        ),
    ]
}

fn shapes() -> Vec<Case> {
    vec![
        Case::new(
            "tensor without a name",
            &["tensor name \"\" has 0 bytes"],
            |f| {
                f.tensor(NORM).name = Vec::new();
            },
        ),
        Case::new(
            "tensor name of 65 bytes",
            &["has 65 bytes, 1 to 64 are allowed"],
            |f| {
                f.tensor(NORM).name = vec![b'n'; 65];
            },
        ),
        Case::new(
            "tensor name of 1 MiB",
            &["tensor name \"nnn", "1 to 64 are allowed"],
            |f| {
                f.tensor(NORM).name = vec![b'n'; 1 << 20];
            },
        ),
        Case::new(
            "tensor name of 2^63 bytes",
            &["tensor name", "takes 9223372036854775808"],
            |f| {
                f.tensor(NORM).name_len = Some(1 << 63);
            },
        ),
        Case::new(
            "tensor name that is not UTF-8",
            &["tensor name is not UTF-8"],
            |f| {
                f.tensor(NORM).name = b"\xF0\x28".to_vec();
            },
        ),
        Case::new(
            "tensor twice",
            &["tensor \"output_norm.weight\" occurs twice"],
            |f| {
                let tensor: Tensor = f.tensor(NORM).clone();
                f.tensors.push(tensor);
            },
        ),
        Case::new("5 dimensions", &["has 5 dimensions, at most 4"], |f| {
            f.tensor(NORM).dims = vec![1; 5];
        }),
        Case::new("2^32-1 dimensions", &["has 4294967295 dimensions"], |f| {
            f.tensor(NORM).n_dims = Some(u32::MAX);
        }),
        Case::new(
            "dimension of 0",
            &["\"output_norm.weight\"", "has a dimension of 0"],
            |f| {
                f.tensor(NORM).dims = vec![0];
            },
        ),
        Case::new(
            "2^32 x 2^32",
            &["shape [4294967296, 4294967296] is too large"],
            |f| {
                f.tensor(EMBD).dims = vec![1 << 32, 1 << 32];
            },
        ),
        Case::new("2^63 x 2", &["is too large"], |f| {
            f.tensor(EMBD).dims = vec![1 << 63, 2]
        }),
        Case::new("2^64-1", &["\"output_norm.weight\"", "is too large"], |f| {
            f.tensor(NORM).dims = vec![u64::MAX];
        }),
        Case::new("(2^16)^4", &["is too large"], |f| {
            f.tensor(EMBD).dims = vec![1 << 16; 4]
        }),
        Case::new(
            "2^62 floats, whose bytes wrap",
            &["shape [4611686018427387904] is too large"],
            |f| {
                f.tensor(NORM).dims = vec![1 << 62];
            },
        ),
        Case::new(
            "2^40 floats",
            &["\"output_norm.weight\" has 4398046511104 bytes"],
            |f| {
                f.tensor(NORM).dims = vec![1 << 40];
            },
        ),
        Case::new(
            "ternary rows of 64",
            &["rows of 64 elements, but I2_S needs a multiple of 128"],
            |f| {
                f.tensor(GATE).dims = vec![64, 1024];
            },
        ),
        Case::new(
            "Q6_K rows of 128",
            &["rows of 128 elements, but Q6_K needs a multiple of 256"],
            |f| {
                f.tensor(EMBD).ty = 14;
            },
        ),
    ]
}

fn places() -> Vec<Case> {
    const LAST: &str = "blk.5.ffn_down.weight";
    vec![
        Case::new(
            "offset of 33",
            &["offset 33 is not a multiple of the alignment 32"],
            |f| {
                f.tensor(NORM).offset = Some(33);
            },
        ),
        Case::new(
            "offset behind the end",
            &["\"output_norm.weight\" has 512 bytes at offset 1099511627776"],
            |f| {
                f.tensor(NORM).offset = Some(1 << 40);
            },
        ),
        Case::new(
            "offset that wraps onto the header",
            &["at offset 18446744073709551584"],
            |f| {
                f.tensor(NORM).offset = Some(u64::MAX - 31);
            },
        ),
        Case::new("offset of 2^63", &["at offset 9223372036854775808"], |f| {
            f.tensor(NORM).offset = Some(1 << 63);
        }),
        Case::new("two tensors at one place", &["overlap at byte"], |f| {
            f.tensor(NORM).offset = Some(0);
        }),
        Case::new(
            "a tensor within another",
            &["\"token_embd.weight\" and \"output_norm.weight\" overlap"],
            |f| {
                f.tensor(NORM).offset = Some(64);
            },
        ),
        Case::new(
            "tensor of unknown type on another",
            &["overlap at byte"],
            |f| {
                f.tensor(NORM).ty = 38;
                f.tensor(NORM).offset = Some(64);
            },
        ),
        Case::new("last tensor cut", &["truncated", LAST], |f| {
            f.cut = Some(-1000)
        }),
        Case::new("scale of the last tensor cut", &["truncated", LAST], |f| {
            f.cut = Some(-32)
        }),
        Case::new("no data", &["truncated", "the file ends at 16384"], |f| {
            f.cut = Some(16384)
        }),
        Case::new(
            "metadata cut",
            &["truncated", "the file ends at 1000"],
            |f| f.cut = Some(1000),
        ),
        Case::new(
            "alignment of 0",
            &["\"general.alignment\" is 0, not a power of two"],
            |f| {
                f.set("general.alignment", u32(0));
            },
        ),
        Case::new("alignment of 3", &["\"general.alignment\" is 3"], |f| {
            f.set("general.alignment", u32(3));
        }),
        Case::new(
            "alignment of 2^31",
            &["truncated", "starts at byte 2147483648"],
            |f| {
                f.set("general.alignment", u32(1 << 31));
            },
        ),
        Case::new(
            "alignment of 32.0",
            &["\"general.alignment\" has type float32, not uint32"],
            |f| {
                f.set("general.alignment", f32(32.0));
            },
        ),
    ]
}
