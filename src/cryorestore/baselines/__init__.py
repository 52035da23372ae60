"""Classical restorations that a learned one has to beat."""
