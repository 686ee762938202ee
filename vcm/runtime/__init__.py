"""Speed, memory and number formats of the device at hand."""
