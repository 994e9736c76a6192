"""Single operations and their kernels."""
