"""Hot loops behind one function each: plain torch (the definition), native CPU code, Triton."""
