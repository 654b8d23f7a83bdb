//! Pins BitNet.cpp's source; see ../README.md.
