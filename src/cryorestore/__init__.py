"""Single-particle cryo-EM restoration with controls: the library behind the pipeline's steps and the command line."""

__version__ = "0.1.0"
