"""`python -m geotdm_fast` is the command `geotdm`."""

from geotdm_fast.cli import command

if __name__ == "__main__":
    command()
