"""What makes weights: data, losses, trainer, evaluation."""
