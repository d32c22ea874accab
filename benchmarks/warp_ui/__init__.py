"""`gengauge warp-ui`: a page on this machine where a person drags points on samples and trains the warped generator."""
