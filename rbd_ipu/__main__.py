"""``python -m rbd_ipu`` is the command ``rbd-ipu``."""

from rbd_ipu.cli import command

if __name__ == "__main__":
    command()
