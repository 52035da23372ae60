"""Readers and writers of the field's file formats: MRC, STAR, cryoSPARC tables and coordinate lists."""
