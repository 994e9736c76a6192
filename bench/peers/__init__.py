"""Plain PyTorch transcriptions of the peers."""
