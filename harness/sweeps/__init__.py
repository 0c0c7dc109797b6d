"""Many runs: asked for, planned, priced, carried out."""
