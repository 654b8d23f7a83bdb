//! BitNet.cpp through FFI: CMake build, C shim, bindings and a safe wrapper.
