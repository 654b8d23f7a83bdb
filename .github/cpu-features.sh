#!/bin/sh
# A short name for what the CPU can do. Caches of native builds are keyed by it.
set -eu
{
    uname -m
    # x86 calls them flags, Arm Features; neither order nor repetition over CPUs matters.
    # shellcheck disable=SC2020
    grep -E '^(flags|Features)' /proc/cpuinfo | tr ' \t' '\n\n' | sort -u
} | sha256sum | cut -c 1-16
