"""What the benchmarks share: options, records, timing, workloads, correctness before any clock starts."""
