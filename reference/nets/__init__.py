"""Networks that several papers or metrics use, under their published parameter names."""
