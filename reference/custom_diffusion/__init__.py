"""Custom Diffusion: new concepts for a text-to-image model, alone and together (Kumari et al., CVPR 2023)."""
