"""What runs the rest: CUDA graphs, copies, processes, files, memory, provenance. Knows nothing of models and data."""
