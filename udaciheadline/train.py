"""The command `python -m udaciheadline.train`; see `checkpoints/train.py`."""

from udaciheadline.checkpoints.train import main

if __name__ == "__main__":
    main()
