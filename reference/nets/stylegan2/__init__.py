"""StyleGAN2 (Karras et al., CVPR 2020), written from its behaviour, with the PyTorch port's parameter names."""
