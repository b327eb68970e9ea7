"""The machine: device, processor, environment variables, signals, memory allocator, several processes."""
