"""Pure functions on tensors: no modules, no state, no input or output."""
