"""CUT, FastCUT and SinCUT (Park et al., ECCV 2020) and their CycleGAN baseline, written from their behaviour."""
