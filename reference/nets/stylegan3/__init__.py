"""StyleGAN3 (Karras et al., NeurIPS 2021), written from its behaviour, with the published code's parameter names."""
