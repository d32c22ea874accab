"""SIGE: tile-sparse inference of edited pictures (Li et al., NeurIPS 2022; extended in T-PAMI 2023)."""
