#!/usr/bin/env python3
"""Lists what `crossval record -o FILE` has written: python read_trace.py FILE [TENSOR]."""
import sys

from safetensors import safe_open

with safe_open(sys.argv[1], framework="numpy") as trace:
    if len(sys.argv) > 2:
        print(trace.get_tensor(sys.argv[2]))
        sys.exit()
    for key, value in sorted(trace.metadata().items()):
        print(f"{key}: {value[:100]}")
    for name in sorted(trace.keys()):
        tensor = trace.get_slice(name)
        print(f"{name}  {tensor.get_dtype()} {tensor.get_shape()}")
