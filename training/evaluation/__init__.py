"""An encoder and labelled data → metrics, plots and mined negatives."""
