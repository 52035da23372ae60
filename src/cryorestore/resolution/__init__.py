"""What two half-maps agree on: curves under a mask and corrected for it, the alignment to a reference, a sharpened map, local resolution."""
