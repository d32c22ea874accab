"""DiffAugment (Zhao et al., NeurIPS 2020): the augmentations and where they are placed."""
