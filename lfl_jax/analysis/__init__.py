"""What can be measured on weights and adapters without training."""
