"""Benchmarks: whole calls and single ops against plain transcriptions of the peers. How to measure: bench/NOTES.md."""
