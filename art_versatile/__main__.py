"""``python -m art_versatile``."""

from art_versatile.cli import app

if __name__ == "__main__":
    app(prog_name="art-versatile")
