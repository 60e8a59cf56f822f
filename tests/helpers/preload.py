"""Imports of the commands, for the process that ``tests.helpers.processes.Processes.fork`` copies."""

import matplotlib.figure
import pytest  # the main module of these processes is pytest's, which multiprocessing imports in each
import safetensors.torch
import sklearn.datasets
import tensorboardX
import torch
import torchvision
import tqdm
import uvloop

import fedws.cli.console
import fedws.cli.demo
import fedws.cli.main
import fedws.cli.plot
import fedws.cli.run
import fedws.cli.worker
import fedws.coordinator.run
import fedws.data.datasets.digits
import fedws.data.datasets.mnist
import fedws.models.mnist_cnn
import fedws.node.evaluator
import tests.helpers.processes

__all__ = ["fedws", "matplotlib", "pytest", "safetensors", "sklearn", "tensorboardX", "tests", "torch"]
__all__ += ["torchvision", "tqdm", "uvloop"]
