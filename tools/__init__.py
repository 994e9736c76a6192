"""Programs for working on the sources, and how the compiled modules are built; no part of the installed package."""
