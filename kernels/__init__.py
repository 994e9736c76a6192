"""Triton kernels and their launchers: tensors and grids, nothing of modules. Importing a module of it needs triton."""
