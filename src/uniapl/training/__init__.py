"""The loop: `Trainer.train_step` is one step of the method, `setup.py` brings its players together."""
