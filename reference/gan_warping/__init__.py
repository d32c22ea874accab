"""GAN Warping: new shapes for a generator from a few warped samples (Wang et al., SIGGRAPH 2022)."""
