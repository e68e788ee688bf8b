"""The AlexNet study: models, augmentation, trainer, run records and claims of a reproduction of AlexNet (2012)."""
