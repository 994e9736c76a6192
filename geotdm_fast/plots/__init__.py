"""Pictures of samples and of training: PNG, PDF, SVG, animated GIF, and HTML pages that need nothing else."""
