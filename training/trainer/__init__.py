"""Records and an encoder → trained weights: trainer, arguments, checkpoints, run file."""
