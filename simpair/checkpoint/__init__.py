"""A name → a folder → settings, tensors and tokenizer; and back to a folder or the Hub."""
