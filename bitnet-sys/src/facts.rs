//! What the build script says of the library.

include!(concat!(env!("OUT_DIR"), "/facts.rs"));

/// What the library calls itself: `llama.cpp` or `BitNet.cpp`.
pub fn name() -> &'static str {
    match VINTAGE {
        "llama.cpp" => "llama.cpp",
        _ => "BitNet.cpp",
    }
}
