"""SDEdit (Meng et al., ICLR 2022): guided synthesis and editing with a diffusion prior started half-way."""
