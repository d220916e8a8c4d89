"""Files and datasets → records → batches."""
