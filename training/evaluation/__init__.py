"""An encoder and labeled data → metrics, plots and mined negatives."""
