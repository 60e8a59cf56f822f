"""Imports what commands import, for the process that :meth:`tests.processes.Processes.fork` copies."""

import matplotlib.figure
import safetensors.torch
import sklearn.datasets
import tensorboardX
import torch
import torchvision
import tqdm
import uvloop

import evaluator
import fedws.cli.console
import fedws.cli.demo
import fedws.cli.main
import fedws.cli.plot
import fedws.cli.run
import fedws.cli.worker
import fedws.coordinator.run
import fedws.data.digits
import fedws.data.mnist
import fedws.models.mnist_cnn

__all__ = ["evaluator", "fedws", "matplotlib", "safetensors", "sklearn", "tensorboardX", "torch", "torchvision"]
__all__ += ["tqdm", "uvloop"]
