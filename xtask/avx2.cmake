# For CMake as a toolchain file: the reference for any CPU that has AVX2, whatever the one at hand has. valgrind 3.19
# knows no AVX-512.
set(GGML_NATIVE OFF CACHE BOOL "")
foreach(set AVX AVX2 FMA F16C)
    set(GGML_${set} ON CACHE BOOL "")
endforeach()
