"""GANgealing (Peebles et al., CVPR 2022): dense alignment supervised by a GAN, written from its behaviour."""
