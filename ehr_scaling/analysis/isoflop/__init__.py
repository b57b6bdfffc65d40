"""IsoFLOP profiles: where the loss turns at a compute, and lines through these places."""
