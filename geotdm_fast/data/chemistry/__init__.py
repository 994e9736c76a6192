"""Molecules as networks of Align Your Structures take them: atomic numbers, features of atoms, types of edges."""
