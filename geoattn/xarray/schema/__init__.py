"""Which variable and level is which channel: data sets to tensors and back, by a schema."""
