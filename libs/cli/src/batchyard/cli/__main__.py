"""`python -m batchyard.cli`: the same as `batchyard`."""

from batchyard.cli.main import app

if __name__ == "__main__":
    app(prog_name="batchyard")
