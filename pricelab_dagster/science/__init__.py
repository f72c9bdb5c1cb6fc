"""Pure numerical methods: arrays in, frozen results out. No I/O, no clock, no global state."""
