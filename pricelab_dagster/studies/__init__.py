"""Simulation studies: experiments drawn many times on markets whose effects were planted."""
