"""The AlexNet study: models, augmentation, trainer, run records and claims of a reproduction of AlexNet (2012).

``P §n`` in the docstrings is section n of the paper (Krizhevsky, Sutskever and Hinton, 2012), *the 2012 code* the
source released at github.com/computerhistory/AlexNet-Source-Code, and names of ``.cfg`` files are of its folder
``layers``; cuda-convnet and cuda-convnet2 are Krizhevsky's public libraries before and after it.
"""
