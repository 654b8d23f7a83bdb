//! Pins llama.cpp's source; see ../README.md.
